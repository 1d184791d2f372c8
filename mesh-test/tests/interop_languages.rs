//! Clients and servers of grpc-go, grpcio, grpc-java, grpc-js and tonic in enrolled pods, through kernel and agent:
//! every client against every server, and every client against all of them behind one Service.

mod support_interop;

use mesh_test::lab::{Lab, Pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support_interop::{LANGUAGES, language, namespace, vip};

/// What the apps report (mesh-test/interop/README.md).
const CASES: &[&str] = &[
    "unary_sizes",
    "server_stream",
    "client_stream",
    "bidi_stream",
    "metadata",
    "deadline_passed_on",
    "deadline_exceeded",
    "cancel",
    "status",
    "status_after_replies",
    "unimplemented",
    "spread",
];
/// For all cells together; one takes a second or two.
const WHOLE: Duration = Duration::from_secs(240);
const CELL: Duration = Duration::from_secs(60);
/// Bytes of the largest message; gRPC's own limit, 4 MiB, is raised in the apps.
const LARGE: &str = "8388608";

/// A Service of the pods that `selector` chooses.
fn service(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: polyglot}}\nspec:\n  selector: {{{selector}}}\n  \
         ports: [{{name: grpc, port: 80, targetPort: 50051}}]\n"
    )
}

#[test]
fn every_language_calls_every_language() {
    // Longer than the five seconds that servers give their calls: the summary must be printed.
    let lab = Lab::builder().grace(Duration::from_secs(10)).start().unwrap();
    namespace(&lab, "polyglot");
    lab.apply_yaml(&service("polyglot", "app: polyglot")).unwrap();
    let servers: Vec<Pod> = LANGUAGES.iter().map(|name| server(&lab, name)).collect();
    let ends = Instant::now() + WHOLE;
    let mut failed = Vec::new();
    for name in LANGUAGES {
        let pod = format!("client-{name}");
        let client = lab.pod(&pod).namespace("polyglot").start().unwrap();
        lab.agent(0).await_enrolled("polyglot", &pod, true).unwrap();
        for server in LANGUAGES {
            match call(&lab, &client, name, server, 5, ends) {
                Ok(report) if report["servers"] == json!({*server: 5}) => {}
                Ok(report) => failed.push(format!("{name} → {server}: another server answered: {report:#}")),
                Err(error) => failed.push(format!("{name} → {server}: {error}")),
            }
        }
        // One connection; the default policy sends least to the slowest, so shares are not equal.
        match call(&lab, &client, name, "polyglot", 100, ends) {
            Ok(report) if report["servers"].as_object().is_some_and(|servers| servers.len() >= 3) => {}
            Ok(report) => failed.push(format!("{name}: one connection must reach several replicas: {report:#}")),
            Err(error) => failed.push(format!("{name} → all: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(lab.agent(0).counter("to_agent").unwrap() >= 30, "the kernel took no connection");
    // Each run of a client cancels one call, which must end in the server too: five at each server's own Service, five more
    // somewhere behind the common one. A summary is printed when all calls are done, at most the lab's grace later.
    let (clients, mut all, mut report) = (LANGUAGES.len() as u64, 0, String::new());
    for server in servers {
        server.delete().unwrap();
        let summary = summary(&server.output()).unwrap_or_else(|e| panic!("{}: {e}", server.name()));
        let cancelled = summary["cancelled"].as_u64().unwrap_or_default();
        report += &format!("{}: {summary}\n", server.name());
        assert!(cancelled >= clients, "cancellations got lost:\n{report}");
        all += cancelled;
    }
    assert_eq!(all, clients * (clients + 1), "as many as were made:\n{report}");
    lab.finish().unwrap();
}

/// The server of one language, with a Service of its own beside the common one.
fn server(lab: &Lab, name: &str) -> Pod {
    lab.apply_yaml(&service(name, &format!("language: {name}"))).unwrap();
    let pod = format!("server-{name}");
    let mut args = vec!["server", "--port", "50051", "--name", &pod];
    if name == "rust" {
        args.extend(["--bind", "::"]);
    }
    let builder = lab.pod(&pod).namespace("polyglot").label("app", "polyglot").label("language", name);
    builder.port("grpc", 50051).program(language(name), &args).start().unwrap()
}

/// Runs the client of one language; its report, if every case was run and is ok.
fn call(lab: &Lab, client: &Pod, name: &str, service: &str, count: u32, ends: Instant) -> Result<Value, String> {
    let target = format!("{}:80", vip(lab, service));
    let args = ["client", "--target", &target, "--count", &count.to_string(), "--large", LARGE];
    let limit = CELL.min(ends.saturating_duration_since(Instant::now()));
    let output = client.run(&language(name), &args, limit).map_err(|e| format!("{e:#}"))?;
    let report = summary(&output.text)?;
    let cases = report["cases"].as_object().cloned().unwrap_or_default();
    let all = CASES.iter().all(|case| cases.get(*case) == Some(&json!("ok"))) && cases.len() == CASES.len();
    if all && output.status.success() { Ok(report) } else { Err(format!("{report:#}")) }
}

/// The last line of JSON that an app printed.
fn summary(text: &str) -> Result<Value, String> {
    let line = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).map_err(|e| format!("{e}: {text}"))
}
