//! grpc-go's own interop client against its own interop server, through kernel and agent: every case that needs no
//! credentials (grpc/doc/interop-test-descriptions.md).

mod support_interop;

use mesh_test::lab::{Lab, Pod};
use std::time::Duration;
use support_interop::{namespace, peer, vip};

/// Not here: `*_creds` and `*_credentials` (TLS or a cloud's identity), and `pick_first_unary`, whose `server_id` grpc-go's
/// server does not fill in and which asks that nobody balances.
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
];
/// Two streams that must meet the same server: run while there is one.
const SINGLE: &[&str] = &["orca_oob"];
/// Hands load reports of the trailers to the client's tests of ORCA.
const REPORTS: &str = r#"--service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: interop, namespace: interop}
spec:
  selector: {app: interop}
  ports: [{name: grpc, port: 10000, targetPort: 10000}]
";

#[test]
fn credential_free_cases_pass() {
    let lab = Lab::builder().start().unwrap();
    namespace(&lab, "interop");
    lab.apply_yaml(SERVICE).unwrap();
    start_server(&lab, "server-1");
    let client = lab.pod("client").namespace("interop").start().unwrap();
    lab.agent(0).await_enrolled("interop", "client", true).unwrap();
    let mut failed = run(&lab, &client, SINGLE);
    start_server(&lab, "server-2");
    failed.extend(run(&lab, &client, CASES));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let least = (CASES.len() + SINGLE.len()) as u64;
    assert!(lab.agent(0).counter("to_agent").unwrap() >= least, "the kernel took no connection");
    lab.finish().unwrap();
}

fn start_server(lab: &Lab, name: &str) {
    let builder = lab.pod(name).namespace("interop").label("app", "interop").port("grpc", 10000);
    builder.program(peer("grpc-interop-server"), &["--port=10000"]).start().unwrap();
}

/// The cases that failed, each with what the client said.
fn run(lab: &Lab, client: &Pod, cases: &[&str]) -> Vec<String> {
    let host = format!("--server_host={}", vip(lab, "interop"));
    let mut failed = Vec::new();
    for case in cases {
        let case_flag = format!("--test_case={case}");
        let mut args = vec![host.as_str(), "--server_port=10000", &case_flag];
        if case.starts_with("orca") {
            args.push(REPORTS);
        }
        match client.run(&peer("grpc-interop-client"), &args, Duration::from_secs(20)) {
            Ok(output) if output.status.success() => {}
            Ok(output) => failed.push(format!("{case}: {}", output.text)),
            Err(error) => failed.push(format!("{case}: {error:#}")),
        }
    }
    failed
}
