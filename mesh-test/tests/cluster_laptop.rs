//! What a person with a kubeconfig, and no way onto a node, asks of the agents of all nodes.

mod support_cluster;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use support_cluster::{APPS, Cluster, app, eventually, text};

const NAMESPACE: &str = "laptop";
const CALLS: u64 = 40;

#[test]
fn every_agent_is_asked_through_the_api_server() {
    let cluster = Cluster::with_agents();
    let nodes = names(&cluster.items(&["nodes"]));
    let replicas = 2 * nodes.len();
    cluster.namespace(NAMESPACE);
    cluster.pingpong(NAMESPACE, replicas);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    // On each node a caller, and one that opts out; on one, a pod that cannot be in the mesh.
    for node in &nodes {
        cluster.apply(&placed(&format!("caller-{node}"), node, &json!({})).to_string());
        cluster.apply(&placed(&format!("shy-{node}"), node, &json!({"istio.io/dataplane-mode": "none"})).to_string());
    }
    let mut host = placed("host", &nodes[0], &json!({}));
    host["spec"]["hostNetwork"] = true.into();
    cluster.apply(&host.to_string());
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let within = replicas + 1 + nodes.len();
    cluster.in_mesh(NAMESPACE, within);

    status(&cluster, &nodes, within);
    explain(&cluster, &nodes, replicas);
    traffic(&cluster, &nodes);
    tap(&cluster, &nodes);
    absent(&cluster, &nodes);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// All nodes, what each has in force, which pods are in and why others are not.
fn status(cluster: &Cluster, nodes: &[String], within: usize) {
    let status = eventually("agents agree", || {
        let said = ask(cluster, &["status", "--cluster"]);
        if said["in_order"] == true { Ok(said) } else { Err(said.to_string()) }
    });
    let agents = list(&status["agents"]);
    assert_eq!(agents.iter().map(|agent| text(&agent["node"])).collect::<Vec<_>>(), nodes, "{status}");
    assert_eq!(status["wanted"], nodes.len(), "{status}");
    let objects: BTreeSet<_> = agents.iter().map(|of| text(&of["status"]["config"]["cluster"]["objects"])).collect();
    assert_eq!(objects.len(), 1, "all have the same objects: {status}");
    let mut known = BTreeSet::new();
    for agent in agents {
        let (config, pods) = (&agent["status"]["config"], &agent["status"]["pods"]);
        assert!(config["generation"].as_u64() > Some(0), "{agent}");
        assert_eq!(config["cluster"]["state"], "in-sync", "{agent}");
        assert_eq!(agent["status"]["node"], agent["node"], "{agent}");
        let ours = |name: &&Value| text(name).starts_with(&format!("{NAMESPACE}/"));
        known.extend(list(&pods["in_mesh"]).iter().filter(ours).map(text));
        let shy = format!("{NAMESPACE}/shy-{}", text(&agent["node"]));
        assert_eq!(reason(pods, &shy), "pod opts out by label or annotation", "{agent}");
    }
    assert_eq!(known.len(), within, "{known:?}");
    let host = reason(&agents[0]["status"]["pods"], &format!("{NAMESPACE}/host"));
    assert!(host.starts_with("hostNetwork"), "{host:?}");
    // For people: a row for each node, and every pod with its reason.
    let table = cluster.mesh_agent(&["status", "--cluster"]);
    let order = format!("{0} of {0} in order", nodes.len());
    for needle in nodes.iter().map(String::as_str).chain([&*order, "opts out", "hostNetwork"]) {
        assert!(table.contains(needle), "{needle} in\n{table}");
    }
    let pods = ask(cluster, &["workloads", "--cluster"]);
    let state = |wanted: &str| {
        let ours = list(&pods).iter().filter(|pod| text(&pod["name"]).starts_with(&format!("{NAMESPACE}/")));
        ours.filter(|pod| pod["mesh"] == wanted).count()
    };
    assert_eq!((state("enrolled"), state("outside"), state("elsewhere")), (within, nodes.len() + 1, 0), "{pods}");
}

/// Each caller's own agent answers, wherever it is.
fn explain(cluster: &Cluster, nodes: &[String], replicas: usize) {
    for node in nodes {
        let from = format!("{NAMESPACE}/caller-{node}");
        let why = ask(cluster, &["explain", "--cluster", "--from", &from, "grpc://ws002-pingpong:9000/x.Y/Z"]);
        assert_eq!(why["source"]["workload"], *from, "{why}");
        let endpoints = why.to_string().matches("\"address\"").count();
        assert!(endpoints >= replicas, "{endpoints} endpoints in {why}");
        let routes = ask(cluster, &["routes", "--cluster", &from, "--host", "ws002-pingpong"]);
        assert!(!list(&routes).is_empty(), "{routes}");
    }
    let rows = ask(cluster, &["endpoints", "--cluster", &format!("{NAMESPACE}/ws002-pingpong")]);
    let told: BTreeSet<_> = list(&rows).iter().map(|row| text(&row["node"])).collect();
    assert_eq!(told, nodes.iter().cloned().collect(), "{rows}");
    assert_eq!(list(&rows).len(), replicas * nodes.len(), "{rows}");
}

/// What the callers of all nodes did is one number.
fn traffic(cluster: &Cluster, nodes: &[String]) {
    for node in nodes {
        call(cluster, node);
    }
    let wanted = CALLS * nodes.len() as u64;
    let service = format!("{NAMESPACE}/ws002-pingpong");
    let top = ask(cluster, &["top", "services", "--cluster", "--total"]);
    let row = list(&top["rows"]).iter().find(|row| row["name"] == *service).expect("the Service is in it");
    // ws001-api calls it too, now and then.
    assert!(row["requests"].as_u64() >= Some(wanted) && row["failures"] == 0, "{top}");
    for node in nodes {
        let of_one = ask(cluster, &["top", "pods", "--node", node, "--total"]);
        let all = ask(cluster, &["top", "pods", "--cluster", "--total"]);
        let caller = format!("{NAMESPACE}/caller-{node}");
        let asked =
            |top: &Value| list(&top["rows"]).iter().find(|row| row["name"] == *caller).map(|row| row["asked"].clone());
        assert_eq!(asked(&of_one), Some(CALLS.into()), "{of_one}");
        assert_eq!(asked(&all), Some(CALLS.into()), "{all}");
    }
    let graph = ask(cluster, &["graph", "--cluster", "--namespace", NAMESPACE]);
    for node in nodes {
        let from = format!("{NAMESPACE}/caller-{node}");
        let edges: Vec<_> = list(&graph).iter().filter(|edge| edge["from"] == *from).collect();
        assert_eq!(edges.len(), 1, "{graph}");
        assert_eq!((&edges[0]["requests"], &edges[0]["service"]), (&CALLS.into(), &service.as_str().into()), "{graph}");
    }
}

/// Requests of all nodes as they pass, one object on a line.
fn tap(cluster: &Cluster, nodes: &[String]) {
    let args = ["tap", "--cluster", "-o", "json", "--to", &format!("{NAMESPACE}/ws002-pingpong")];
    let mut tap = cluster.mesh_agent_command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(tap.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("watching"), "{line:?}");
    for node in nodes {
        call(cluster, node);
    }
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    let mut callers = BTreeSet::new();
    let all: BTreeSet<String> = nodes.iter().map(|node| format!("caller-{node}")).collect();
    while !all.is_subset(&callers) {
        let line = lines.next().expect("the tap goes on until it is ended").unwrap();
        let request: Value = serde_json::from_str(&line).expect("an object");
        assert_eq!(request["service"], format!("{NAMESPACE}/ws002-pingpong"), "{request}");
        callers.insert(text(&request["source"]["pod"]));
    }
    tap.kill().unwrap();
    tap.wait().unwrap();
    let _ = said.read_to_string(&mut line);
}

/// Who cannot be asked is a row with its reason, and the exit code.
fn absent(cluster: &Cluster, nodes: &[String]) {
    let output = cluster.mesh_agent_command(&["status", "--node", "nowhere"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nowhere") && said.contains(&nodes[0]), "{said}");
    let output = cluster.mesh_agent_command(&["status", "--cluster", "--mesh-namespace", NAMESPACE]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("mesh-agent install"), "{said}");
}

fn call(cluster: &Cluster, node: &str) {
    let calls = CALLS.to_string();
    let args = ["--target", "ws002-pingpong:9000", "--count", &calls];
    let report = cluster.load(NAMESPACE, &format!("caller-{node}"), &args);
    assert_eq!((report.ok, report.failed), (CALLS, 0), "{report:?}");
}

/// A pod that waits on this node.
fn placed(name: &str, node: &str, labels: &Value) -> Value {
    let mut pod = app(NAMESPACE, name, &["echo", "--port", "idle:detect:0"]);
    assert_eq!(pod["spec"]["containers"][0]["image"], APPS);
    pod["spec"]["nodeName"] = node.into();
    for (label, value) in labels.as_object().into_iter().flatten() {
        pod["metadata"]["labels"][label] = value.clone();
    }
    pod
}

fn reason(pods: &Value, pod: &str) -> String {
    let row = list(&pods["outside"]).iter().find(|row| row["pod"] == *pod);
    text(&row.unwrap_or_else(|| panic!("{pod} in {pods}"))["reason"])
}

fn ask(cluster: &Cluster, args: &[&str]) -> Value {
    let said = cluster.mesh_agent(&[args, &["-o", "json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"))
}

fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| text(&object["metadata"]["name"])).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
