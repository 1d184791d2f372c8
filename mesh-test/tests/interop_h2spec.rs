//! h2spec against the agent's server side, from an enrolled pod through the kernel: every case of
//! `support_interop/h2spec.txt` passes but the ones listed and explained here, and no other case is run.

mod support_interop;

use mesh_test::lab::Lab;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use support_interop::{namespace, peer, vip};

/// `<h2spec's section> <title>`, one a line.
const CASES: &str = include_str!("support_interop/h2spec.txt");

/// Cases that fail, each with the reason why that is meant.
const KNOWN: &[(&str, &str)] = &[];

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: h2spec}
spec:
  selector: {app: web}
  ports: [{name: http2, port: 80, targetPort: 8080}]
";

#[test]
fn the_server_side_passes_h2spec() {
    let lab = Lab::builder().start().unwrap();
    namespace(&lab, "h2spec");
    lab.apply_yaml(SERVICE).unwrap();
    let server = lab.pod("web").namespace("h2spec").label("app", "web").port("http2", 8080);
    server.app(&["echo", "--port", "http2:http:8080"]).start().unwrap();
    let client = lab.pod("client").namespace("h2spec").start().unwrap();
    lab.agent(0).await_enrolled("h2spec", "client", true).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interop");
    std::fs::create_dir_all(&kept).unwrap();
    let report = kept.join("h2spec.xml");
    let _ = std::fs::remove_file(&report);
    let report_flag = format!("--junit-report={}", report.display());
    // 3 s for each case; a failing one waits that long.
    let args = ["-h", &vip(&lab, "web"), "-p", "80", "-o", "3", &report_flag];
    let output = client.run(&peer("h2spec"), &args, Duration::from_secs(120)).unwrap();
    let report = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report: {e}: {}", output.text));

    let expected: BTreeMap<String, bool> =
        CASES.lines().map(|case| (case.to_owned(), !KNOWN.iter().any(|(known, _)| *known == case))).collect();
    assert!(KNOWN.iter().all(|(case, _)| expected.contains_key(*case)), "a known failure is no case");
    let got = results(&report);
    let differ: Vec<String> = expected
        .keys()
        .chain(got.keys())
        .filter(|case| expected.get(*case) != got.get(*case))
        .map(|case| format!("{case}: expected {:?}, got {:?}", expected.get(case), got.get(case)))
        .collect();
    assert!(differ.is_empty(), "true: passed, false: failed, None: not run\n{}\n{}", differ.join("\n"), output.text);
    assert!(lab.agent(0).counter("to_agent").unwrap() > 100, "the kernel took no connection");
    lab.finish().unwrap();
}

/// Each case of h2spec's JUnit report and whether it passed: `<testcase package="http2/3.5" classname="…" …>`, followed
/// by a line with `<failure>`, `<error>` or `<skipped>` if it did not.
fn results(report: &str) -> BTreeMap<String, bool> {
    let mut results = BTreeMap::new();
    let mut last = None;
    for line in report.lines().map(str::trim) {
        if line.starts_with("<testcase ") {
            let case = format!("{} {}", attribute(line, "package"), attribute(line, "classname"));
            results.insert(case.clone(), true);
            last = Some(case);
        } else if let Some(case) = &last
            && ["<failure", "<error", "<skipped"].iter().any(|tag| line.starts_with(tag))
        {
            results.insert(case.clone(), false);
        }
    }
    results
}

/// The value of an attribute, as h2spec escapes it.
fn attribute(line: &str, name: &str) -> String {
    let value = line.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    let value = value.map_or_else(|| panic!("no {name}: {line}"), |(value, _)| value);
    value.replace("&#34;", "\"").replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
