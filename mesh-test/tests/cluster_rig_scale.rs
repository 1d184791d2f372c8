//! Many Services nobody on the node calls: what an agent holds of them, what it asks of the API server, and how soon one
//! endpoint's change is in force among them.

mod support_cluster;

use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support_cluster::{ApiProxy, Cluster, Rig, admin, bar, eventually, is_long};

const NAMESPACE: &str = "scale";
const SERVICES: &str = "/api/v1/namespaces/scale/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/scale/endpointslices";
const NODES: [usize; 2] = [1, 2];
const ENDPOINTS: usize = 2;
/// Requests at a time to the API server while the objects are made.
const AT_ONCE: usize = 4;
const CHANGES: usize = 200;
/// MiB
const MEMORY: f64 = 150.0;
const IN_FORCE: Duration = Duration::from_secs(1);
/// How long nothing happens while requests are counted: watches are asked for anew each minute.
const QUIET: Duration = Duration::from_secs(60);

#[test]
fn an_agent_is_small_and_quick_among_many_services() {
    let services = if is_long() { 10_000 } else { 500 };
    let cluster = Cluster::with_agents();
    let rig = cluster.rig().expect("a rig");
    cluster.namespace(NAMESPACE);
    let api = ApiProxy::start(&cluster);
    let empty = Load::of(rig, &api);

    let began = Instant::now();
    create(&api, services);
    let made = began.elapsed();
    assert_eq!((count(&api, SERVICES), count(&api, SLICES)), (services, services), "in the API server");
    for node in NODES {
        eventually("every Service is known", || {
            let known = rig.ask(node, "status")["config"]["services"].as_u64().unwrap_or(0);
            if known >= services as u64 { Ok(()) } else { Err(format!("{known} on node {node}")) }
        });
    }
    println!(
        "{services} Services with {ENDPOINTS} endpoints each, made in {made:.0?}, known {:.0?} later",
        began.elapsed() - made
    );
    let full = Load::of(rig, &api);
    println!("agents' memory, MiB: {:?} without, {:?} with them (bar {MEMORY})", empty.memory, full.memory);
    println!("while they were made: {}", full.since(&empty));
    assert!(full.memory.iter().all(|mib| *mib <= MEMORY), "{full:?}");

    let mut took: Vec<_> = (0..CHANGES).map(|n| change(rig, &api, n)).collect();
    took.sort();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    println!(
        "{CHANGES} changes of an endpoint, from the request to both agents' answer: p50 {:.1?}, max {:.1?}",
        at(50),
        at(100)
    );
    bar("p99 of an endpoint's change", at(99), IN_FORCE);
    let changed = Load::of(rig, &api);
    println!("while they changed: {}", changed.since(&full));

    // An agent that starts has all of it to read.
    restart(&cluster, rig, services);
    let again = Load::of(rig, &api);
    println!("agents that start among them: memory, MiB: {:?}; each read {:.2?} MB", again.memory, again.megabytes());
    assert!(again.memory.iter().all(|mib| *mib <= MEMORY), "{again:?}");
    if is_long() {
        std::thread::sleep(QUIET);
        println!("in a quiet minute: {}", Load::of(rig, &api).since(&again));
    }
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=600s"]);
}

fn create(api: &ApiProxy, services: usize) {
    let next = AtomicUsize::new(0);
    let make = || {
        loop {
            let n = next.fetch_add(1, Relaxed);
            if n >= services {
                return;
            }
            api.send("POST", SERVICES, Some(&service(n)));
            api.send("POST", SLICES, Some(&slice(n, 0)));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(make)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("all are made"));
    });
}

/// As the API server counts them.
fn count(api: &ApiProxy, path: &str) -> usize {
    let some = api.send("GET", &format!("{path}?limit=1"), None);
    let items = some["items"].as_array().map_or(0, Vec::len);
    items + some["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize
}

/// kube-proxy is told to leave these alone: what it takes for them is none of the agent's.
fn metadata(n: usize) -> Value {
    let labels = json!({"kubernetes.io/service-name": name(n), "service.kubernetes.io/service-proxy-name": "nobody"});
    json!({"name": name(n), "namespace": NAMESPACE, "labels": labels})
}

fn service(n: usize) -> Value {
    let port = json!({"name": "http", "port": 80, "targetPort": 8080});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(n), "spec": {"ports": [port]}})
}

/// Its second endpoint is the first or the second of two.
fn slice(n: usize, second: usize) -> Value {
    let endpoint = |of: usize| json!({"addresses": [address(n, of)], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": metadata(n),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint(0), endpoint(1 + second)],
    })
}

fn address(n: usize, of: usize) -> String {
    format!("10.{}.{}.{}", 200 + of, n / 250, n % 250 + 1)
}

fn name(n: usize) -> String {
    format!("service-{n}")
}

/// From before the API server is asked until a request of either node would go to the new endpoint, and not to the former.
fn change(rig: &Rig, api: &ApiProxy, n: usize) -> Duration {
    let agents = NODES.map(|node| rig.admin_socket(node));
    let question = json!({"from": "scale/", "url": format!("http://{}.scale/", name(n))});
    let (former, wanted) = (address(n, 1), address(n, 2));
    let body = slice(n, 1);
    let began = Instant::now();
    api.send("PUT", &format!("{SLICES}/{}", name(n)), Some(&body));
    for agent in agents {
        eventually("the endpoint is in force", || {
            let (code, said) = admin(&agent, "POST", "/explain", Some(&question)).map_err(|error| error.to_string())?;
            let has = |address: &str| said.contains(&format!("\"{address}:8080\""));
            if code == 200 && has(&wanted) && !has(&former) { Ok(()) } else { Err(format!("{code}: {said}")) }
        });
    }
    began.elapsed()
}

/// New agents on both nodes, ready, with everything.
fn restart(cluster: &Cluster, rig: &Rig, services: usize) {
    cluster.kubectl(&["-n", support_cluster::SYSTEM, "rollout", "restart", "daemonset/undermesh"]);
    cluster.rolled_out(support_cluster::SYSTEM, "daemonset/undermesh");
    for node in NODES {
        eventually("the new agent knows every Service from the API server", || {
            let status = rig.ask(node, "status");
            let known = status["config"]["services"].as_u64().unwrap_or(0);
            let good = known >= services as u64 && status["config"]["cluster"]["state"] == "in-sync";
            if good { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

/// What both agents cost until now.
#[derive(Debug)]
struct Load {
    at: Instant,
    /// Resident, MiB, of each.
    memory: [f64; 2],
    /// Bytes each got from the API server over the connections it has now.
    received: [u64; 2],
    /// Requests of both, as the API server counts them, and the seconds it worked on those that are no watches.
    requests: u64,
    seconds: f64,
}

impl Load {
    fn of(rig: &Rig, api: &ApiProxy) -> Self {
        let metrics = api.text("/metrics");
        // Its priority level of service accounts beyond kube-system's: nobody else on the rig has one.
        let sum = |family: &str, label: &str| -> f64 {
            let lines = metrics.lines().filter(|line| line.starts_with(family) && line.contains(label));
            let ours = lines.filter(|line| line.contains("flow_schema=\"service-accounts\""));
            ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Self {
            at: Instant::now(),
            memory: NODES.map(|node| memory(rig, node)),
            received: NODES.map(|node| received(rig, node)),
            requests: sum("apiserver_flowcontrol_dispatched_requests_total{", "") as u64,
            seconds: sum("apiserver_flowcontrol_request_execution_seconds_sum{", "type=\"regular\""),
        }
    }

    /// For one agent of the two.
    fn since(&self, before: &Self) -> String {
        let bytes = self.received.iter().sum::<u64>().saturating_sub(before.received.iter().sum());
        format!(
            "in {:.0?} each agent made {:.1} requests of the API server, got {:.2} MB, and kept it busy for {:.3} s beside watches",
            self.at - before.at,
            (self.requests - before.requests) as f64 / 2.0,
            bytes as f64 / 2e6,
            (self.seconds - before.seconds) / 2.0,
        )
    }

    fn megabytes(&self) -> [f64; 2] {
        self.received.map(|bytes| bytes as f64 / 1e6)
    }
}

/// Resident memory of a node's agent in MiB.
fn memory(rig: &Rig, node: usize) -> f64 {
    let status = rig.on(node, &format!("cat /proc/{}/status", rig.agent(node)));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("kB");
    (kib / 102.4).round() / 10.0
}

/// What a node's agent has read from the API server.
fn received(rig: &Rig, node: usize) -> u64 {
    let found = rig.on(node, "ss -tnpiHO state established '( dport = :443 or dport = :6443 )'");
    let pid = format!("pid={},", rig.agent(node));
    let ours: Vec<_> = found.lines().filter(|line| line.contains(&pid)).collect();
    assert!(!ours.is_empty(), "the agent has no connection to the API server: {found}");
    let bytes =
        |line: &&str| line.split(' ').find_map(|word| word.strip_prefix("bytes_received:")?.parse::<u64>().ok());
    ours.iter().filter_map(bytes).sum()
}
