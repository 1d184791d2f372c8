//! What a running agent says of requests is what its files say, and what then happens.

mod support_node;

use mesh_test::lab::{Bins, Lab};
use serde_json::Value;
use std::process::Command;
use support_node::pingpong;

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pingpong, namespace: pingpong}
spec:
  hosts: [ws002-pingpong]
  http:
  - match: [{headers: {x-team: {exact: red}}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: ws002-pingpong}}]
  - timeout: 2s
    route: [{destination: {host: ws002-pingpong, subset: all}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pingpong, namespace: pingpong}
spec:
  host: ws002-pingpong
  subsets: [{name: all, labels: {app: ws002-pingpong}}]
";

const METHOD: &str = "grpc://ws002-pingpong:9000/pingpong.PingPong/Ping";

#[test]
fn a_running_agent_says_what_its_files_say_and_what_happens() {
    let (lab, client) = pingpong(2);
    lab.apply_yaml(ROUTES).unwrap();
    lab.agent(0).await_status("has the routes in force", |_| routed(&lab)).unwrap();

    let asked: [&[&str]; 6] = [
        &["explain", "--from", "pingpong/client", METHOD],
        &["explain", "--from", "pingpong/client", METHOD, "-H", "x-team: red"],
        &["explain", "--from", "pingpong/client", "http://elsewhere.example/"],
        &["routes", "pingpong/client"],
        &["services", "pingpong/client"],
        &["endpoints", "--from", "pingpong/client"],
    ];
    for args in asked {
        let (mut live, mut files) = (say(&lab, args, true), say(&lab, args, false));
        without_what_only_an_agent_knows(&mut live.0);
        without_what_only_an_agent_knows(&mut files.0);
        assert_eq!(live, files, "{args:?}");
        assert!(!live.0.to_string().is_empty());
    }

    let (good, code) = say(&lab, asked[0], true);
    assert_eq!((code, good["source"]["mesh"].as_str(), good["timeout_ms"].as_u64()), (0, Some("enrolled"), Some(2000)));
    assert_eq!(good["backends"][0]["endpoints"].as_array().map(Vec::len), Some(endpoints(&lab)), "{good:#}");
    assert_eq!(latencies(&good), 0, "nothing was measured yet: {good:#}");
    let report = client.load(&["--target", "ws002-pingpong:9000", "--count", "20"]).unwrap();
    assert_eq!((report.ok, report.failed), (20, 0), "{report:?}");
    let (measured, _) = say(&lab, asked[0], true);
    assert_eq!(latencies(&measured), 2, "both pods answered: {measured:#}");

    let (refused, code) = say(&lab, asked[1], true);
    assert_eq!((code, refused["verdict"]["flag"].as_str()), (2, Some("FI")), "{refused:#}");
    let report =
        client.load(&["--target", "ws002-pingpong:9000", "--count", "20", "--metadata", "x-team=red"]).unwrap();
    assert_eq!((report.ok, report.failed), (0, 20), "{report:?}");
    lab.finish().unwrap();
}

/// The agent has compiled the routes.
fn routed(lab: &Lab) -> bool {
    let (rows, _) = say(lab, &["routes", "pingpong/client", "--host", "ws002-pingpong"], true);
    rows.as_array().is_some_and(|rows| rows.len() == 2)
}

/// Addresses of the ready pods as the agent lists them.
fn endpoints(lab: &Lab) -> usize {
    let (rows, _) = say(lab, &["endpoints", "ws002-pingpong", "--from", "pingpong/client"], true);
    let of_all = |row: &&Value| row["service"] == "pingpong/ws002-pingpong:9000/all";
    rows.as_array().map_or(0, |rows| rows.iter().filter(of_all).count())
}

/// Pods of the first destination with a response time. Both addresses of a pod have one.
fn latencies(explanation: &Value) -> usize {
    let endpoints = explanation["backends"][0]["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().filter(|e| e["second"] == false && e["latency_ms"].is_number()).count()
}

/// The answer, of the agent's socket or of the folder that it reads, and the exit code.
fn say(lab: &Lab, args: &[&str], live: bool) -> (Value, i32) {
    let mut command = Command::new(Bins::agent().unwrap());
    command.args(["-o", "json"]).args(args);
    match live {
        true => command.arg("--run-dir").arg(lab.agent(0).run_dir()),
        false => command.arg("-f").arg(lab.config_dir()),
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
    (json, output.status.code().unwrap())
}

/// Loads and times; and what `-f` assumes is in its notes.
fn without_what_only_an_agent_knows(answer: &mut Value) {
    match answer {
        Value::Array(all) => all.iter_mut().for_each(without_what_only_an_agent_knows),
        Value::Object(fields) => {
            for name in ["latency_ms", "active", "notes"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(without_what_only_an_agent_knows);
        }
        _ => {}
    }
}
