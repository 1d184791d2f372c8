//! Pods start when they are in the mesh: their very first connection is; and what happens while the agent is away.

mod support_cluster;

use serde_json::{Value, json};
use support_cluster::{Cluster, Rig, SYSTEM, app, eventually, text};

const NAMESPACE: &str = "cni";
/// Each makes one call, at once, and ends.
const PODS: usize = 20;
const CONFIGURATION: &str = "/etc/cni/net.d/10-kn.conflist";

#[test]
fn a_pods_first_connection_is_in_the_mesh() {
    let cluster = Cluster::with_agents();
    let nodes = cluster.items(&["nodes"]).len();
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.pingpong(NAMESPACE, nodes);
    cluster.in_mesh(NAMESPACE, nodes + 1);
    chained(&cluster);
    first_connections(&cluster);
    if let Some(rig) = cluster.rig() {
        rewritten(rig);
        single(&cluster, rig);
    }

    away(&cluster);
    cluster.client(NAMESPACE, "early");
    back(&cluster);
    cluster.in_mesh(NAMESPACE, nodes + 2);
    eventually("the pod is told that it began outside", || {
        let events = events(&cluster, "early", "BeganOutsideMesh");
        let good = events.iter().any(|note| note.contains("began outside the mesh") && note.contains("in it since"));
        if good { Ok(()) } else { Err(format!("{events:?}")) }
    });

    cluster.mesh_agent(&["install", "--set", "failurePolicy=closed"]);
    away(&cluster);
    let held = app(NAMESPACE, "held", &["echo", "--port", "idle:detect:0"]);
    cluster.apply(&held.to_string());
    eventually("the kubelet says why the pod does not start", || {
        let events = events(&cluster, "held", "FailedCreatePodSandBox");
        let good = events.iter().any(|note| note.contains("failure policy is closed"));
        if good { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let pod = cluster.get(&["pod", "-n", NAMESPACE, "held"]);
    assert_eq!(pod["status"]["phase"], "Pending", "{pod}");
    back(&cluster);
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/held", "--timeout=180s"]);
    cluster.in_mesh(NAMESPACE, nodes + 3);
    assert_eq!(events(&cluster, "held", "BeganOutsideMesh"), Vec::<String>::new());
    cluster.mesh_agent(&["install"]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// Every agent has put the plugin in, as its status says.
fn chained(cluster: &Cluster) {
    eventually("the plugin is in the chain", || {
        let chains: Vec<_> = cluster.ask(&["status"]).iter().map(|status| status["cni"].clone()).collect();
        let good = !chains.is_empty() && chains.iter().all(|chain| chain["file"].is_string());
        if good { Ok(()) } else { Err(format!("{chains:?}")) }
    });
}

/// A network without a chain: the status says why pods do not wait, and the file stays as it is.
fn single(cluster: &Cluster, rig: &Rig) {
    let file = "/etc/cni/net.d/00-single.conf";
    let lone = r#"{"cniVersion": "1.0.0", "name": "single", "type": "ptp"}"#;
    // No pod of the test starts on that node meanwhile.
    rig.on(1, &format!("echo '{lone}' > {file}"));
    let said = eventually("the status says so", || {
        let chain = rig.ask(1, "status")["cni"].clone();
        if chain["file"].is_null() { Ok(text(&chain["reason"])) } else { Err(chain.to_string()) }
    });
    assert!(said.contains("00-single.conf") && said.contains("single plugin"), "{said}");
    assert_eq!(rig.on(1, &format!("cat {file}; rm {file}")).trim(), lone);
    chained(cluster);
}

/// None of them passes the agents by: each is counted as its caller's.
fn first_connections(cluster: &Cluster) {
    let names: Vec<String> = (0..PODS).map(|n| format!("first-{n}")).collect();
    let args = ["load", "--target", "ws002-pingpong:9000", "--count", "1", "--interval-ms", "0"];
    let pods: Vec<Value> = names.iter().map(|name| app(NAMESPACE, name, &args)).collect();
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
    for name in &names {
        let done = "--for=jsonpath={.status.phase}=Succeeded";
        cluster.kubectl(&["wait", "-n", NAMESPACE, done, &format!("pod/{name}"), "--timeout=180s"]);
    }
    let top = cluster.mesh_agent(&["top", "workloads", "--cluster", "--total", "-n", "1000", "-o", "json"]);
    let top: Value = serde_json::from_str(&top).expect("JSON");
    let rows = top["rows"].as_array().expect("rows");
    let asked = |name: &String| {
        let of = format!("{NAMESPACE}/{name}");
        rows.iter().find(|row| row["name"] == *of).map_or(0, |row| row["asked"].as_u64().unwrap_or(0))
    };
    let counted: Vec<_> = names.iter().map(|name| (name, asked(name))).collect();
    assert!(counted.iter().all(|(_, asked)| *asked == 1), "{counted:?}");
    println!("{PODS} pods, each calls as its first action: all counted by the agents");
}

/// Another network's agent writes its file anew.
fn rewritten(rig: &Rig) {
    let read = || serde_json::from_str::<Value>(&rig.on(1, &format!("cat {CONFIGURATION}"))).expect("JSON");
    let ours = |list: &Value| {
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        plugins.iter().position(|plugin| plugin["type"] == "undermesh-cni").map(|at| (at, plugins.len()))
    };
    let mut list = read();
    let (at, all) = ours(&list).expect("our entry");
    assert_eq!(at, all - 1, "the last one: {list}");
    list["plugins"].as_array_mut().expect("plugins").pop();
    rig.on(1, &format!("cat > {CONFIGURATION} <<'END'\n{list}\nEND"));
    eventually("our entry is back", || match ours(&read()) {
        Some(place) if place == (at, all) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Takes the agents off all nodes, as a node's failure would; nothing is uninstalled.
fn away(cluster: &Cluster) {
    let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"undermesh.test/nowhere":"true"}}}}}"#;
    cluster.kubectl(&["patch", "daemonset", "undermesh", "-n", SYSTEM, "-p", nowhere]);
    eventually("no agent runs", || {
        let left = cluster.agents();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn back(cluster: &Cluster) {
    let anywhere = r#"[{"op":"remove","path":"/spec/template/spec/nodeSelector"}]"#;
    cluster.kubectl(&["patch", "daemonset", "undermesh", "-n", SYSTEM, "--type=json", "-p", anywhere]);
    cluster.rolled_out(SYSTEM, "daemonset/undermesh");
}

/// What is said to a pod for this reason.
fn events(cluster: &Cluster, pod: &str, reason: &str) -> Vec<String> {
    let events = cluster.items(&["events.events.k8s.io", "-n", NAMESPACE]);
    let about = events.iter().filter(|event| event["regarding"]["name"] == pod && event["reason"] == reason);
    about.map(|event| text(&event["note"])).collect()
}
