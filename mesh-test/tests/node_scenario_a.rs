//! Scenario A, steps 1 to 3, over one client connection: IPv4, IPv6 and v4-mapped.

mod support_node;

use mesh_test::apps::load::Line;
use mesh_test::lab::{Lab, finish_load, parse_lines};
use std::time::Duration;
use support_node::{PINGPONG, assert_even, pingpong, settled};

#[test]
fn label_then_the_next_connection_is_balanced_per_rpc_and_back() {
    let lab = Lab::builder().start().unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    let client = lab.pod("client").namespace("pingpong").start().unwrap();
    let calls = || client.load(&["--target", "ws002-pingpong:9000", "--count", "100"]).unwrap();

    let before = calls();
    assert_eq!((before.ok, before.failed, before.connections_opened), (100, 0, 1), "{before:?}");
    assert_eq!(before.replicas.len(), 1, "outside the mesh one connection is one replica: {before:?}");
    // A connection that is open when the label comes stays as it is.
    let mut old = client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "50"]).unwrap();
    std::thread::sleep(Duration::from_millis(400));

    lab.label_namespace("pingpong", "istio-injection", Some("enabled")).unwrap();
    lab.agent(0).await_enrolled("pingpong", "client", true).unwrap();
    settled(&lab, "pingpong/ws002-pingpong:9000", 2);
    let after = calls();
    assert_eq!((after.ok, after.failed, after.connections_opened), (100, 0, 1), "{after:?}");
    assert_even(&after, 2);
    let old = finish_load(&mut old).unwrap();
    assert_eq!((old.failed, old.connections_opened, old.replicas.len()), (0, 1, 1), "{old:?}");

    lab.label_namespace("pingpong", "istio-injection", None).unwrap();
    lab.agent(0).await_enrolled("pingpong", "client", false).unwrap();
    let outside = calls();
    assert_eq!((outside.ok, outside.replicas.len()), (100, 1), "{outside:?}");

    lab.label_namespace("pingpong", "istio.io/dataplane-mode", Some("ambient")).unwrap();
    lab.agent(0).await_enrolled("pingpong", "client", true).unwrap();
    assert_even(&calls(), 2);
    lab.finish().unwrap();
}

#[test]
fn every_family_and_every_call_kind_is_balanced() {
    let (lab, client) = pingpong(3);
    let vip = lab.services().iter().find(|s| s.service.name == "ws002-pingpong").unwrap().ips.unwrap();
    let targets = [format!("{}:9000", vip.v4), format!("[{}]:9000", vip.v6), format!("[::ffff:{}]:9000", vip.v4)];
    for target in &targets {
        let report = client.load(&["--target", target, "--count", "99"]).unwrap();
        assert_eq!((report.ok, report.failed, report.connections_opened), (99, 0, 1), "{target}: {report:?}");
        assert_even(&report, 3);
    }
    for method in ["unary", "server-stream", "client-stream", "bidi"] {
        let args = ["--target", "ws002-pingpong:9000", "--method", method, "--messages", "5", "--count", "30"];
        let report = client.load(&args).unwrap();
        assert_eq!((report.ok, report.failed), (30, 0), "{method}: {report:?}");
        assert_even(&report, 3);
    }
    // HTTP/1.1 in front, gRPC behind, both through the mesh.
    let api =
        client.load(&["--kind", "http", "--path", "/api/pingpong", "--target", "ws001-api:7001", "--count", "30"]);
    let api = api.unwrap();
    assert_eq!((api.ok, api.failed), (30, 0), "{api:?}");
    assert!(lab.agent(0).counter("to_agent").unwrap() >= 8);
    lab.finish().unwrap();
}

#[test]
fn scaling_two_five_one_under_load_fails_no_call() {
    let (lab, client) = pingpong(2);
    let mut load =
        client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "300", "--interval-ms", "100"]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.scale("pingpong", "ws002-pingpong", 5).unwrap();
    let ready_at = parse_lines::<Line>(&load.output()).len();
    std::thread::sleep(Duration::from_millis(1500));
    let within: std::collections::BTreeSet<String> = parse_lines::<Line>(&load.output())
        .into_iter()
        .skip(ready_at)
        .take(11)
        .flat_map(|line| match line {
            Line::Interval { report, .. } | Line::Total { report, .. } => report.replicas.into_keys(),
        })
        .collect();
    assert_eq!(within.len(), 5, "new replicas take traffic within a second: {within:?}");
    lab.scale("pingpong", "ws002-pingpong", 1).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let report = finish_load(&mut load).unwrap();
    assert!(report.ok > 600, "{report:?}");
    assert_eq!((report.failed, report.connections_opened), (0, 1), "{report:?}");
    lab.finish().unwrap();
}

#[test]
fn two_nodes_have_an_agent_each() {
    let lab = Lab::builder().nodes(2).start().unwrap();
    lab.label_namespace("pingpong", "istio-injection", Some("enabled")).unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    lab.scale("pingpong", "ws002-pingpong", 4).unwrap();
    for node in 0..2 {
        let name = format!("client-{node}");
        let client = lab.pod(&name).namespace("pingpong").on_node(node).start().unwrap();
        lab.agent(node).await_enrolled("pingpong", &name, true).unwrap();
        settled(&lab, "pingpong/ws002-pingpong:9000", 4);
        let report = client.load(&["--target", "ws002-pingpong:9000", "--count", "100"]).unwrap();
        assert_eq!((report.ok, report.failed), (100, 0), "{report:?}");
        assert_even(&report, 4);
    }
    lab.finish().unwrap();
}

#[test]
fn a_pod_opts_out_alone() {
    let (lab, client) = pingpong(2);
    let outside = lab.pod("outside").namespace("pingpong").label("sidecar.istio.io/inject", "false").start().unwrap();
    let named = |status: &serde_json::Value| {
        let all = status["pods"]["outside"].as_array().cloned().unwrap_or_default();
        all.iter()
            .any(|pod| pod["pod"] == "pingpong/outside" && pod["reason"].as_str().is_some_and(|why| !why.is_empty()))
    };
    lab.agent(0).await_status("names the pod outside and why", named).unwrap();
    let report = outside.load(&["--target", "ws002-pingpong:9000", "--count", "40"]).unwrap();
    assert_eq!((report.ok, report.replicas.len()), (40, 1), "{report:?}");
    assert_even(&client.load(&["--target", "ws002-pingpong:9000", "--count", "40"]).unwrap(), 2);
    lab.finish().unwrap();
}
