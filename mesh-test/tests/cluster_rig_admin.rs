//! What a pod can reach of the agent of its node: three paths that tell numbers, and nothing that tells or changes more.

mod support_cluster;

use std::collections::BTreeSet;
use support_cluster::{Cluster, Rig, eventually, text};

const NAMESPACE: &str = "nosy";
const METRICS: u16 = 15090;
const CAPTURE: u16 = 15001;

#[test]
fn a_pod_reaches_metrics_and_nothing_of_the_admin_interface() {
    let cluster = Cluster::with_agents();
    let rig = cluster.rig().expect("a rig");
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.client(NAMESPACE, "inside");
    cluster.client(NAMESPACE, "neighbour");
    cluster.in_mesh(NAMESPACE, 2);
    for (node, object) in [1, 2].into_iter().zip(cluster.items(&["nodes"])) {
        // The sockets: root's alone, in a folder of root's alone, on the node's file system.
        let stat = |name: &str| rig.on(node, &format!("stat -c '%a %u %F' /run/undermesh{name}"));
        assert_eq!(stat("").trim(), "700 0 directory", "node {node}");
        for socket in ["/agent.sock", "/cni.sock"] {
            assert_eq!(stat(socket).trim(), "600 0 socket", "node {node}");
        }
        assert_eq!(listening(rig, node), BTreeSet::from([METRICS]), "node {node}: TCP of the node");
        let addresses = object["status"]["addresses"].as_array().expect("addresses");
        let address = addresses.iter().find(|address| address["type"] == "InternalIP").expect("an address");
        let address = text(&address["address"]);
        for (path, wanted) in [("/metrics", 200), ("/healthz", 200), ("/readyz", 200)] {
            assert_eq!(status(&cluster, &format!("http://{address}:{METRICS}{path}"), &[]), wanted, "{path}");
        }
        // The admin socket's questions, and orders.
        for path in [
            "/status",
            "/snapshot",
            "/kernel",
            "/connections",
            "/diagnostics",
            "/tap",
            "/explain",
            "/../status",
            "//status",
        ] {
            assert_eq!(status(&cluster, &format!("http://{address}:{METRICS}{path}"), &[]), 404, "{path}");
        }
        for path in ["/kernel/sk-msg", "/log-level"] {
            let order = ["--method", "PUT", "--data", "off"];
            assert_eq!(status(&cluster, &format!("http://{address}:{METRICS}{path}"), &order), 404, "{path}");
        }
        // Capture is inside pods, on loopback.
        assert_eq!(status(&cluster, &format!("http://{address}:{CAPTURE}/status"), &[]), 0, "node {node}");
    }
    let pod = cluster.get(&["pod", "-n", NAMESPACE, "neighbour"]);
    let neighbour = text(&pod["status"]["podIP"]);
    assert_eq!(status(&cluster, &format!("http://{neighbour}:{CAPTURE}/status"), &[]), 0, "a neighbour's listener");
    // Its own listener answers nobody who was not sent there by the kernel.
    let own = status(&cluster, &format!("http://127.0.0.1:{CAPTURE}/status"), &[]);
    assert!(matches!(own, 0 | 400..=599), "{own}");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// 0: no answer.
fn status(cluster: &Cluster, url: &str, args: &[&str]) -> u16 {
    let args = [&["--timeout-ms", "3000"], args].concat();
    cluster.fetch(NAMESPACE, "inside", url, &args).first().expect("a reply").status
}

/// Ports on which the agent listens in the node's own network namespace.
fn listening(rig: &Rig, node: usize) -> BTreeSet<u16> {
    eventually("the agent's listeners", || {
        let pid = rig.agent(node);
        let words = format!(
            "for f in /proc/{pid}/fd/*; do readlink $f || true; done; cat /proc/{pid}/net/tcp /proc/{pid}/net/tcp6"
        );
        let said = rig.on(node, &words);
        let sockets: BTreeSet<&str> =
            said.lines().filter_map(|line| line.strip_prefix("socket:[")?.strip_suffix(']')).collect();
        let ports: BTreeSet<u16> = said
            .lines()
            .filter_map(|line| {
                // sl local_address rem_address st … inode is field 9; state 0A listens.
                let fields: Vec<&str> = line.split_whitespace().collect();
                let listens = *fields.get(3)? == "0A" && sockets.contains(fields.get(9)?);
                let port = fields.get(1)?.rsplit(':').next()?;
                listens.then(|| u16::from_str_radix(port, 16).ok())?
            })
            .collect();
        if ports.is_empty() { Err(said) } else { Ok(ports) }
    })
}
