//! A real Prometheus scrapes a node's agent while real calls pass: every query of every Grafana panel and every alert
//! finds data, and promtool has nothing against what is served and shipped.

mod support_node;

use mesh_test::lab::finish_load;
use mesh_test::prometheus::Prometheus;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support_node::{eventually, pingpong, settled};

/// Two scrapes for a rate, and five seconds for the bytes of open connections.
const LIMIT: Duration = Duration::from_secs(45);

/// Beside ping-pong: a Service of bytes whose connections the agent forwards, since it has a policy, and one whose
/// connections the kernel places.
const MORE: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: bytes, namespace: pingpong}
spec:
  replicas: 1
  selector: {matchLabels: {app: bytes}}
  template:
    metadata: {labels: {app: bytes, version: v1}}
    spec:
      containers:
      - {name: echo, image: example/echo, ports: [{name: tcp-echo, containerPort: 9100}, {name: tcp-kernel, containerPort: 9101}]}
---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: pingpong}
spec: {selector: {app: bytes}, ports: [{name: tcp-echo, port: 9100}]}
---
apiVersion: v1
kind: Service
metadata: {name: kernel-bytes, namespace: pingpong}
spec: {selector: {app: bytes}, ports: [{name: tcp-kernel, port: 9101}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bytes, namespace: pingpong}
spec: {host: bytes, trafficPolicy: {connectionPool: {tcp: {maxConnections: 100}}}}
";

/// What keeps passing while Prometheus is asked.
const LOADS: &[&[&str]] = &[
    &["--target", "ws002-pingpong:9000", "--rate", "30"],
    &["--target", "ws002-pingpong:9000", "--rate", "3", "--fail-code", "14"],
    &["--target", "ws001-api:7001", "--kind", "http", "--path", "/api/pingpong", "--rate", "10"],
    &["--target", "bytes:9100", "--kind", "tcp", "--rate", "10"],
    &["--target", "kernel-bytes:9101", "--kind", "tcp", "--rate", "10"],
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The boards, by name.
fn boards() -> Vec<(String, Value)> {
    let mut boards: Vec<(String, Value)> = fs::read_dir(deploy().join("grafana"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .map(|path| {
            let board = serde_json::from_str(&fs::read_to_string(&path).unwrap());
            (path.file_stem().unwrap().to_string_lossy().into_owned(), board.unwrap())
        })
        .collect();
    boards.sort_by(|a, b| a.0.cmp(&b.0));
    boards
}

/// (board: panel, expression) of every target.
fn queries(name: &str, board: &Value) -> Vec<(String, String)> {
    let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{name}: {}: a panel without a query", panel["title"]);
        let title = format!("{name}: {}", panel["title"].as_str().unwrap());
        targets.iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    targets.collect()
}

/// What a user may have chosen in a board's menus.
const CHOICES: &[&[(&str, &str)]] = &[
    &[
        ("$service", "ws002-pingpong.pingpong.svc.cluster.local"),
        ("$reporter", "destination"),
        ("$workload", "ws002-pingpong"),
    ],
    &[("$service", "bytes.pingpong.svc.cluster.local"), ("$reporter", "destination"), ("$workload", "bytes")],
    &[("$service", "ws001-api.pingpong.svc.cluster.local"), ("$reporter", "source"), ("$workload", "client")],
];

/// The expression as Grafana sends it.
fn chosen(expression: &str, choice: &[(&str, &str)]) -> String {
    let fixed = [("$__rate_interval", "10s"), ("$namespace", "pingpong"), ("$instance", ".*")];
    choice.iter().chain(&fixed).fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Grafana's `label_values(SELECTOR, LABEL)` as a query.
fn values_of(variable: &Value) -> Option<(String, String)> {
    let query = variable["query"]["query"].as_str()?;
    let (selector, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(", ")?;
    Some((format!("menu {}", variable["name"]), format!("count by ({label}) ({selector})")))
}

/// Every metric that the rules speak of.
fn metrics_of_rules() -> BTreeSet<String> {
    let text = fs::read_to_string(deploy().join("prometheus/rules.yml")).unwrap();
    let expressions = text.lines().filter(|line| !line.trim_start().starts_with(['#', '\'']));
    let words = expressions.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let metrics: BTreeSet<_> = words
        .filter(|word| ["istio_", "mesh_", "process_"].iter().any(|p| word.starts_with(p)))
        .map(str::to_owned)
        .collect();
    assert!(metrics.len() > 5, "{metrics:?}");
    metrics
}

fn promtool(args: &[&str]) {
    let output = Command::new("promtool").current_dir(deploy().join("prometheus")).args(args).output().unwrap();
    assert!(output.status.success(), "promtool {args:?}: {output:?}");
}

#[test]
fn every_panel_and_every_alert_finds_data() {
    let (lab, client) = pingpong(2);
    lab.apply_yaml(MORE).unwrap();
    settled(&lab, "pingpong/bytes:9100", 1);
    settled(&lab, "pingpong/kernel-bytes:9101", 1);
    let prometheus = Prometheus::start(&lab, 0, &deploy().join("prometheus")).unwrap();
    let start = |args: &&[&str]| client.start_load(&[*args, &["--duration", "120"]].concat()).unwrap();
    let mut loads: Vec<_> = LOADS.iter().map(start).collect();

    let mut without: Vec<(String, String)> = Vec::new();
    for (name, board) in boards() {
        without.extend(queries(&name, &board));
        without.extend(board["templating"]["list"].as_array().unwrap().iter().filter_map(values_of));
    }
    without.extend(metrics_of_rules().into_iter().map(|metric| ("rules".to_owned(), format!("count({metric})"))));
    let asked = without.len();
    assert!(asked > 100, "{asked}");
    let has_data = |expression: &str| {
        let asked: BTreeSet<String> = CHOICES.iter().map(|choice| chosen(expression, choice)).collect();
        asked.iter().any(|query| prometheus.query(query).unwrap().iter().any(|sample| sample.value.is_finite()))
    };
    let all = eventually(LIMIT, || {
        without.retain(|(_, expression)| !has_data(expression));
        without.is_empty()
    });
    assert!(all, "{} of {asked} queries without data: {without:#?}", without.len());
    println!("{asked} queries found data");
    for load in &mut loads {
        finish_load(load).unwrap();
    }
    drop(prometheus);
    lab.finish().unwrap();
}

#[test]
fn rules_fire_when_they_should() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
}
