//! What `explain`, `routes`, `services` and `endpoints` say of the shipped examples: configuration → snapshot →
//! decision, as a user reads it.
//!
//! One golden for each family of examples, in `tests/goldens/explain`; `UPDATE_GOLDENS=1` writes them anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Examples that belong together, and requests to a mesh made of them.
struct Family {
    name: &'static str,
    /// Below `deploy/examples`, for all requests.
    base: &'static [&'static str],
    /// More files, and what is asked of both.
    cases: &'static [(&'static [&'static str], &'static str)],
}

const SHOP: &str = "--from sock-shop/deploy/front-end-v1";

const FAMILIES: &[Family] = &[
    Family {
        name: "pingpong",
        base: &["pingpong.yaml"],
        cases: &[
            (&[], "explain --from deploy/ws001-api grpc://ws002-pingpong:9000/pingpong.PingPong/Ping"),
            (&["scenarios/pingpong-abort.yaml"], "explain --from deploy/ws001-api grpc://ws002-pingpong:9000/a.B/C"),
            (&["scenarios/pingpong-delay.yaml"], "explain --from deploy/ws001-api grpc://ws002-pingpong:9000/a.B/C"),
            (&["scenarios/pingpong-retry.yaml"], "explain --from deploy/ws001-api http://ws001-api:7001/"),
            (
                &["scenarios/pingpong-circuit-breaker.yaml"],
                "explain --from deploy/ws001-api grpc://ws002-pingpong:9000/a.B/C",
            ),
            (
                &["ingress-gateway.yaml", "scenarios/pingpong-gateway.yaml"],
                "explain --gateway pingpong/pingpong http://ws001.example.com:8080/api/x",
            ),
            (
                &["scenarios/pingpong-gateway.yaml"],
                "explain --gateway pingpong/pingpong http://ws001.example.com:8080/",
            ),
            (
                &["scenarios/pingpong-gateway.yaml"],
                "explain --gateway pingpong/pingpong http://elsewhere.example:8080/",
            ),
            (&["scenarios/pingpong-gateway.yaml"], "explain --gateway pingpong/pingpong http://ws001.example.com/"),
        ],
    },
    Family {
        name: "sock-shop",
        base: &["scenarios/sock-shop.yaml"],
        cases: &[
            (&[], "explain http://carts/items"),
            (&["scenarios/sock-shop-routes.yaml"], "explain http://orders/"),
            (&["scenarios/carts-abort-80.yaml"], "explain http://carts/items"),
            (&["scenarios/carts-delay-50.yaml"], "explain http://carts/items"),
            (&["scenarios/carts-circuit-breaker.yaml"], "explain http://carts/items"),
            (&["scenarios/carts-outlier.yaml"], "explain http://carts/items"),
            (&["scenarios/carts-rate-limit.yaml"], "explain http://carts/items"),
            (&["scenarios/retry-front-end.yaml"], "explain http://front-end/"),
            (&["scenarios/retry-orders.yaml"], "explain http://orders/"),
        ],
    },
    Family {
        name: "zones",
        base: &["scenarios/zones.yaml", "../../mesh-agent/tests/goldens/zones.yaml"],
        cases: &[
            (&[], "explain --from client http://web/"),
            (&["scenarios/locality-distribute.yaml"], "explain --from client http://web/"),
            (&["scenarios/locality-failover.yaml"], "explain --from client http://web/"),
            (&["scenarios/affinity-header.yaml"], "explain --from client http://web/ -H x-session:7"),
            (&["scenarios/affinity-header.yaml"], "explain --from client http://web/"),
            (&["scenarios/affinity-cookie.yaml"], "explain --from client http://web/ -H cookie:session=7"),
            (&["scenarios/affinity-source-ip.yaml"], "explain --from client http://web/"),
            (&["scenarios/slow-start.yaml"], "explain --from client http://web/"),
        ],
    },
    Family {
        name: "reviews",
        base: &["../../mesh-agent/tests/goldens/reviews.yaml"],
        cases: &[
            (&["scenarios/reviews-cookie-burr.yaml"], "explain --from productpage reviews:9080/ -H cookie:user=burr"),
            (&["scenarios/reviews-cookie-burr.yaml"], "explain --from productpage reviews:9080/ -H cookie:user=jason"),
            (&["scenarios/reviews-mirror.yaml"], "explain --from productpage reviews:9080/"),
            (&["scenarios/broken.yaml"], "explain --from productpage reviews:9080/"),
        ],
    },
    Family {
        name: "workloads",
        base: &[],
        cases: &[
            (&["pingpong.yaml", "scenarios/pingpong-retry.yaml"], "routes pingpong/deploy/ws001-api"),
            (&["scenarios/sock-shop.yaml", "scenarios/sock-shop-routes.yaml"], "routes sock-shop/deploy/front-end-v1"),
            (&["scenarios/sock-shop.yaml", "scenarios/sock-shop-routes.yaml"], "services sock-shop/deploy/orders-v1"),
            (
                &["scenarios/sock-shop.yaml", "scenarios/sock-shop-routes.yaml"],
                "endpoints orders --from sock-shop/deploy/front-end-v1",
            ),
            (
                &[
                    "scenarios/zones.yaml",
                    "../../mesh-agent/tests/goldens/zones.yaml",
                    "scenarios/locality-failover.yaml",
                ],
                "endpoints --from zones/client",
            ),
            (&["scenarios/sock-shop.yaml", "scenarios/registry-only.yaml"], "services shop/"),
            (&["scenarios/sock-shop.yaml", "scenarios/registry-only.yaml"], "services sock-shop/"),
            (&["../../mesh-agent/tests/goldens/reviews.yaml", "scenarios/broken.yaml"], "routes default/"),
            (&["scenarios/sock-shop.yaml"], "routes sock-shop/ --host nowhere"),
            (&["scenarios/sock-shop.yaml"], "routes nobody"),
        ],
    },
    Family {
        name: "bytes",
        base: &["../../mesh-agent/tests/goldens/bytes.yaml"],
        cases: &[
            (&[], "explain --from shop/web-0 tcp://db:5432"),
            (&[], "explain --from guests/guest-0 tcp://db.shop:5432"),
            (&[], "explain --from shop/web-0 tcp://cache:6379"),
            (&[], "explain --from shop/web-0 http://cache:6379/"),
            (&[], "explain --from shop/web-0 tcp://peers:7000"),
            (&[], "explain --from shop/web-0 tcp://page:80"),
            (&[], "explain --from shop/web-0 tls://secure:443 --sni a.secure.example"),
            (&[], "explain --from shop/web-0 tls://secure:443 --sni b.secure.example"),
            (&[], "explain --from shop/web-0 tls://secure:443"),
            (&[], "explain --from guests/guest-0 https://api.example/"),
            (&[], "explain --from guests/guest-0 tls://192.0.2.9:443 --sni other.example"),
            (&[], "explain --from guests/guest-0 tcp://192.0.2.9:5432"),
            (&[], "explain --from shop/web-0 tcp://192.0.2.9:5432"),
            (&[], "explain --gateway shop/edge tcp://edge:5432"),
            (&[], "explain --gateway shop/edge tcp://edge:5433"),
            (&[], "explain --gateway shop/edge tls://through.example:443"),
            (&[], "explain --gateway shop/edge tls://other.example:443"),
        ],
    },
    Family {
        name: "traced",
        base: &["scenarios/tracing-backends.yaml"],
        cases: &[
            (&["scenarios/tracing-zipkin.yaml"], "explain --from default/ http://zipkin.observability:9411/zipkin/"),
            (&["scenarios/tracing-otlp.yaml"], "explain --from default/ http://otel.observability:4317/"),
            (&["scenarios/tracing-otlp-http.yaml"], "explain --from default/ http://otel.observability:4318/v1/traces"),
            (&["scenarios/tracing-all.yaml"], "services default/"),
        ],
    },
    Family {
        name: "outside",
        base: &[],
        cases: &[
            (&["scenarios/registry-only.yaml"], "explain --from shop/ http://example.org/"),
            (&["scenarios/external-host.yaml"], "explain --from shop/ http://api.example.com/"),
            (
                &["scenarios/external-host.yaml", "scenarios/made-up-host.yaml"],
                "explain --from shop/ http://made-up.example.com/new",
            ),
        ],
    },
];

#[test]
fn shipped_examples_decide_as_their_goldens_say() {
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let mut said = String::new();
        for (more, question) in family.cases {
            let from = if family.name == "sock-shop" { SHOP } else { "" };
            let (command, question) = question.split_once(' ').unwrap();
            let files = family.base.iter().chain(*more).flat_map(|file| ["-f".to_owned(), example(file)]);
            let args: Vec<String> =
                files.chain(from.split_whitespace().chain(question.split_whitespace()).map(str::to_owned)).collect();
            let output = run(command, &args);
            let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            let text = without_lines(&text);
            let code = output.status.code().unwrap();
            said += &format!("$ mesh-agent {command} {}\n{text}exit code {code}\n\n", args.join(" "));
        }
        let golden = root().join(format!("mesh-agent/tests/goldens/explain/{}.txt", family.name));
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &said).unwrap();
        }
        if std::fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("{} is not what explain says now:\n{said}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDENS=1 writes them anew", wrong.join("\n"));
}

#[test]
fn every_shipped_example_is_asked_about() {
    let mut asked: BTreeSet<PathBuf> = BTreeSet::new();
    for family in FAMILIES {
        let files = family.cases.iter().flat_map(|(more, _)| more.iter()).chain(family.base);
        asked.extend(files.map(|file| root().join("deploy/examples").join(file)));
    }
    let mut all = Vec::new();
    files(&root().join("deploy/examples"), &mut all);
    assert!(all.len() > 20, "only {} examples", all.len());
    let forgotten: Vec<_> = all.iter().filter(|file| !asked.contains(*file)).collect();
    assert!(forgotten.is_empty(), "add requests for {forgotten:?} to FAMILIES");
}

#[test]
fn exit_codes_are_for_scripts() {
    let file = example("scenarios/sock-shop.yaml");
    let code = |args: &[&str]| explain(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()).status.code();
    assert_eq!(code(&["-f", &file, "--from", "front-end-v1", "http://carts/"]), Some(0));
    assert_eq!(code(&["-f", &file, "--from", "nobody", "http://carts/"]), Some(1));
    assert_eq!(code(&["-f", &file, "ftp://carts/"]), Some(1));
    assert_eq!(code(&["-f", "/nowhere/at/all", "http://carts/"]), Some(1));
    assert_eq!(code(&["--nonsense", "http://carts/"]), Some(1), "2 is taken");
    assert_eq!(code(&["--run-dir", "/nowhere/at/all", "http://carts/"]), Some(1), "no agent");
    let refused = ["-f", &file, "-f", &example("scenarios/broken.yaml"), "--from", "shop/", "http://nobody.shop/x"];
    assert_eq!(code(&["-f", &example("scenarios/registry-only.yaml"), "--from", "shop/", "http://a.b/"]), Some(2));
    assert_eq!(code(&refused), Some(0), "passed on to where the app connects");
    assert_eq!(code(&["--help"]), Some(0));
}

#[test]
fn json_and_yaml_are_one() {
    let ask = |format: &str| {
        let args =
            ["-f", &example("scenarios/sock-shop.yaml"), "--from", "front-end-v1", "http://carts/", "-o", format];
        String::from_utf8(explain(&args.map(str::to_owned)).stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&ask("json")).unwrap();
    let yaml: serde_json::Value = serde_yaml_ng::from_str(&ask("yaml")).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json["verdict"]["outcome"], "forwarded");
}

/// Runs in the repository's root: places in the output are relative.
fn run(command: &str, args: &[String]) -> Output {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    agent.current_dir(root()).env_remove("UNDERMESH_SOCKET").arg(command).args(args).output().unwrap()
}

fn explain(args: &[String]) -> Output {
    run("explain", args)
}

/// `a.yaml:12` → `a.yaml`: a comment more in an example changes no decision.
fn without_lines(text: &str) -> String {
    let mut parts = text.split(".yaml:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + ".yaml" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn example(name: &str) -> String {
    match name.strip_prefix("../../") {
        Some(name) => name.to_owned(),
        None => format!("deploy/examples/{name}"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}
