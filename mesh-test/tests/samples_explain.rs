//! What `mesh-agent explain` says of Bookinfo, as it is published: the requests of the tutorials that everybody has read.
//!
//! The golden is `tests/goldens/bookinfo.txt`; `UPDATE_GOLDENS=1` writes it anew. As in `samples.rs`, without the samples
//! the test fails.

use mesh_test::lab::Bins;
use std::path::{Path, PathBuf};
use std::process::Command;

const APP: &str = "platform/kube/bookinfo.yaml";
const SUBSETS: &str = "networking/destination-rule-all.yaml";

/// Files below `bookinfo/` beside the app itself, and what is asked.
const CASES: &[(&[&str], &str)] = &[
    (&[], "explain --from deploy/productpage-v1 reviews:9080/reviews/0"),
    (
        &[SUBSETS, "networking/virtual-service-all-v1.yaml"],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0",
    ),
    (
        &[SUBSETS, "networking/virtual-service-reviews-jason-v2-v3.yaml"],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0 -H end-user:jason",
    ),
    (
        &[SUBSETS, "networking/virtual-service-reviews-jason-v2-v3.yaml"],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0",
    ),
    (
        &[SUBSETS, "networking/virtual-service-reviews-50-v3.yaml"],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0",
    ),
    (&["networking/virtual-service-reviews-v3.yaml"], "explain --from deploy/productpage-v1 reviews:9080/reviews/0"),
    (
        &[SUBSETS, "networking/virtual-service-ratings-test-delay.yaml"],
        "explain --from deploy/reviews-v2 ratings:9080/ratings/0 -H end-user:jason",
    ),
    (
        &[SUBSETS, "networking/virtual-service-ratings-test-abort.yaml"],
        "explain --from deploy/reviews-v2 ratings:9080/ratings/0 -H end-user:jason",
    ),
    (
        &["networking/bookinfo-gateway.yaml"],
        "explain --gateway default/bookinfo-gateway http://bookinfo.example:8080/productpage",
    ),
    (
        &["networking/bookinfo-gateway.yaml"],
        "explain --gateway default/bookinfo-gateway http://bookinfo.example:8080/admin",
    ),
    (
        &["gateway-api/bookinfo-gateway.yaml"],
        "explain --gateway default/bookinfo-gateway http://bookinfo.example/productpage",
    ),
    (
        &["platform/kube/bookinfo-versions.yaml", "gateway-api/route-reviews-90-10.yaml"],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0",
    ),
    (
        &[
            SUBSETS,
            "platform/kube/bookinfo-versions.yaml",
            "gateway-api/route-reviews-90-10.yaml",
            "networking/virtual-service-reviews-v3.yaml",
        ],
        "explain --from deploy/productpage-v1 reviews:9080/reviews/0",
    ),
    (&["platform/kube/bookinfo-mysql.yaml"], "explain --from deploy/reviews-v2 tcp://mysqldb:3306"),
    (
        &["networking/egress-rule-google-apis.yaml"],
        "explain --from deploy/details-v1 http://www.googleapis.com/books/v1/volumes",
    ),
    (&[SUBSETS, "networking/virtual-service-reviews-80-20.yaml"], "routes deploy/productpage-v1"),
    (&[SUBSETS], "services deploy/productpage-v1"),
    (&[SUBSETS], "endpoints reviews --from deploy/productpage-v1"),
];

#[test]
fn bookinfo_decides_as_its_golden_says() {
    let agent = Bins::agent().unwrap();
    let mut said = String::new();
    for (files, question) in CASES {
        let (command, question) = question.split_once(' ').unwrap();
        let files = [APP].into_iter().chain(files.iter().copied()).flat_map(|file| ["-f", file]);
        let args: Vec<&str> = [command].into_iter().chain(files).chain(question.split(' ')).collect();
        let mut run = Command::new(&agent);
        let output = run.current_dir(samples().join("bookinfo")).args(&args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        said += &format!("$ mesh-agent {}\n{text}exit code {}\n\n", args.join(" "), output.status.code().unwrap());
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bookinfo.txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(wanted == said, "{} is not what is said now:\n{said}", golden.display());
}

fn samples() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    let dir = std::env::var_os("UNDERMESH_SAMPLES").map_or(beside, PathBuf::from);
    assert!(dir.is_dir(), "no samples at {}: name their folder with UNDERMESH_SAMPLES", dir.display());
    dir
}
