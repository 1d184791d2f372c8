//! A request, its connection and its Service with what the kernel knows of them.

mod support_node;

use mesh_test::lab::finish_load;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support_node::{eventually, pingpong};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_the_kernel_knows_stands_beside_what_was_asked() {
    let (lab, client) = pingpong(1);
    let agent = lab.agent(0);
    agent.await_status("sk_msg on", |status| status["kernel"]["sk_msg"]["on"] == true).unwrap();
    let mut load = client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "50"]).unwrap();

    let seen = agent.ask(&["tap", "--from", "pingpong/client", "--max", "1"]).unwrap();
    assert_eq!(seen["verdict"], "to_agent", "{seen:#}");
    assert!(seen["srtt_us"].as_u64().is_some_and(|us| us > 0 && us < 1_000_000), "{seen:#}");
    assert!(seen["retransmits"].is_u64() && seen["redirected_bytes"].is_u64(), "{seen:#}");

    let connection = || {
        let list = agent.ask(&["connections"]).unwrap();
        let rows = list["connections"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["source"] == "pingpong/client").unwrap_or(Value::Null)
    };
    let redirected = || connection()["redirected_bytes"].as_u64().is_some_and(|bytes| bytes > 0);
    assert!(eventually(LIMIT, redirected), "gRPC between app and agent goes past TCP/IP: {:#}", connection());
    assert_eq!(connection()["verdict"], "to_agent");

    finish_load(&mut load).unwrap();
    // The agent's connection to the endpoint: seen while it is used, or at its end.
    let metrics = || {
        let mut socket = UnixStream::connect(agent.run_dir().join("agent.sock")).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    };
    let count = "mesh_tcp_srtt_seconds_count{service=\"pingpong/ws002-pingpong:9000\"} ";
    let counted = |text: &str| text.lines().find_map(|line| line.strip_prefix(count)?.parse::<u64>().ok());
    assert!(eventually(LIMIT, || counted(&metrics()).is_some_and(|count| count > 0)), "{}", metrics());
    lab.finish().unwrap();
}
