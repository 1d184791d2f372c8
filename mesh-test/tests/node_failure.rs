//! What happens when something dies: the agent, an endpoint, a part of the configuration.

mod support_node;

use mesh_test::apps::load::report::Report;
use mesh_test::lab::{Pod, finish_load};
use std::time::{Duration, Instant};
use support_node::{assert_even, eventually, pingpong, settled};

const TCP_ECHO: &str = "
apiVersion: v1
kind: Service
metadata: {name: tcp-echo, namespace: pingpong}
spec:
  selector: {app: tcp-echo}
  ports: [{name: tcp, port: 9000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tcp-echo, namespace: pingpong}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: tcp-echo}}
    spec:
      containers: [{name: echo, ports: [{name: tcp, containerPort: 9000}]}]
";

#[test]
fn a_killed_agent_fails_open_and_its_successor_adopts() {
    let (lab, client) = pingpong(2);
    lab.apply_yaml(TCP_ECHO).unwrap();
    settled(&lab, "pingpong/tcp-echo:9000", 2);
    let mut opaque = client.start_load(&["--target", "tcp-echo:9000", "--kind", "tcp", "--rate", "100"]).unwrap();
    let mut grpc = client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "200"]).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(lab.agent(0).counter("to_endpoint").unwrap() >= 1, "opaque TCP is placed by the kernel");

    lab.agent(0).kill9();
    let killed = Instant::now();
    let mut direct = None;
    while killed.elapsed() < Duration::from_secs(3) && direct.is_none() {
        let outcome = client.call(&["--target", "ws002-pingpong:9000", "--timeout-ms", "1500"]).unwrap();
        assert!(outcome.elapsed_us < 1_900_000, "nothing hangs: {outcome:?}");
        direct = outcome.ok.then(|| killed.elapsed());
    }
    let direct = direct.expect("new connections go direct while the agent is dead");
    println!("direct {} ms after kill -9", direct.as_millis());
    assert!(direct < Duration::from_millis(1500), "{direct:?}");

    let restarted = Instant::now();
    lab.agent(0).restart().unwrap();
    lab.agent(0).await_enrolled("pingpong", "client", true).unwrap();
    let call = client.call(&["--target", "ws002-pingpong:9000"]).unwrap();
    let serving = restarted.elapsed();
    println!("the successor served a call {} ms after its start (processes and all)", serving.as_millis());
    assert!(call.ok && serving < Duration::from_secs(3), "{serving:?} {call:?}");
    assert_eq!(lab.agent(0).ask(&["kernel"]).unwrap()["adoption"], "adopted");
    settled(&lab, "pingpong/ws002-pingpong:9000", 2);
    assert_even(&client.load(&["--target", "ws002-pingpong:9000", "--count", "100"]).unwrap(), 2);

    let opaque = finish_load(&mut opaque).unwrap();
    assert_eq!((opaque.failed, opaque.connections_opened), (0, 1), "the opaque flow noticed nothing: {opaque:?}");
    let grpc = finish_load(&mut grpc).unwrap();
    assert!(grpc.ok > 100, "the client came back by itself: {grpc:?}");
    lab.finish().unwrap();
}

#[test]
fn a_frozen_agent_fails_open_as_a_dead_one_does() {
    let (lab, client) = pingpong(2);
    lab.agent(0).freeze().unwrap();
    // Its beat is stale after a second; its listeners still accept, so only the kernel can know.
    std::thread::sleep(Duration::from_millis(1500));
    let report = client.load(&["--target", "ws002-pingpong:9000", "--count", "20", "--reconnect"]).unwrap();
    assert_eq!((report.ok, report.failed), (20, 0), "{report:?}");
    assert!(report.max_us < 500_000, "nothing waits for the frozen agent: {report:?}");
    lab.agent(0).thaw().unwrap();
    assert!(lab.agent(0).counter("beat_stale_open").unwrap() >= 20);
    assert!(
        eventually(Duration::from_secs(3), || {
            let report = client.load(&["--target", "ws002-pingpong:9000", "--count", "20"]).unwrap();
            report.ok == 20 && report.replicas.len() == 2
        }),
        "it goes on where it was"
    );
    lab.finish().unwrap();
}

/// The user's word that repeating is harmless, whatever a replica did with the call (SEMANTICS §3 "Retries").
const RETRY_RESETS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ws002-pingpong, namespace: pingpong}
spec:
  hosts: [ws002-pingpong]
  http:
  - route: [{destination: {host: ws002-pingpong}}]
    retries: {attempts: 2, retryOn: 'reset,connect-failure,refused-stream'}
";

/// In turn, so that sooner or later each stream of a closed loop is with any one replica.
const IN_TURN: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ws002-pingpong, namespace: pingpong}
spec:
  host: ws002-pingpong
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
";

#[test]
fn a_replica_killed_under_load_costs_at_most_what_it_was_doing() {
    let (lab, client) = pingpong(3);
    let mut load = client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "300"]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let victim = &lab.pods_of("pingpong", "ws002-pingpong")[0];
    victim.crash().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let report = finish_load(&mut load).unwrap();
    // A dying process takes milliseconds to close its sockets; at 100 calls a second to each replica few fit in there.
    assert!(report.ok > 400 && report.failed <= 5, "{report:?}");
    only_with(victim, &report);
    assert_eq!(report.connections_opened, 1, "the client's connection is the agent's, not the replica's: {report:?}");
    lab.finish().unwrap();
}

#[test]
fn a_killed_replica_costs_the_calls_it_had_and_none_where_resets_are_retried() {
    let (lab, client) = pingpong(3);
    lab.apply_yaml(IN_TURN).unwrap();
    let calls = 12;
    let killed = |index: usize| {
        let concurrency = calls.to_string();
        let args = ["--target", "ws002-pingpong:9000", "--concurrency", &concurrency, "--timeout-ms", "60000"];
        let mut load = client.start_load(&args).unwrap();
        let victim = &lab.pods_of("pingpong", "ws002-pingpong")[index];
        // Frozen it answers nothing, so all calls end up with it; then it is known what it has when it dies.
        let with_victim = || {
            let rows = lab.agent(0).ask(&["endpoints", "ws002-pingpong"]).unwrap_or_default();
            let rows = rows.as_array().cloned().unwrap_or_default();
            let name = format!("pingpong/{}", victim.name());
            // A pod is one endpoint, whichever of its addresses a row is of.
            rows.iter()
                .filter(|row| row["workload"] == *name)
                .filter_map(|row| row["active"].as_u64())
                .max()
                .unwrap_or(0)
        };
        assert!(eventually(Duration::from_secs(10), || with_victim() > 0), "the load runs");
        victim.freeze().unwrap();
        assert!(eventually(Duration::from_secs(20), || with_victim() == calls), "{} calls", with_victim());
        victim.crash().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let report = finish_load(&mut load).unwrap();
        assert_eq!(report.connections_opened, 1, "{report:?}");
        assert!(report.ok > calls, "the others go on: {report:?}");
        println!("killed with {calls} calls: {} ok, {} failed {:?}", report.ok, report.failed, report.errors);
        only_with(victim, &report);
        let begun = report.errors.values().filter(|error| error.message.contains(BEGUN)).map(|error| error.count).sum();
        (report.failed, begun)
    };
    assert_eq!(killed(0).0, calls, "what was sent and not answered is not sent again unasked");
    settled(&lab, "pingpong/ws002-pingpong:9000", 3);
    lab.apply_yaml(RETRY_RESETS).unwrap();
    let asked = ["explain", "--from", "pingpong/client", "grpc://ws002-pingpong:9000/pingpong.PingPong/Ping"];
    let retry = || lab.agent(0).ask(&asked).unwrap_or_default()["retry"].to_string();
    assert!(eventually(Duration::from_secs(5), || retry().contains("reset")), "{}", retry());
    // Frozen between an answer's head and its end, it has begun to answer what nobody can repeat.
    let (failed, begun): (u64, u64) = killed(1);
    assert_eq!(failed, begun, "the user's policy repeats what was not answered");
    lab.finish().unwrap();
}

#[test]
fn a_replica_killed_in_mid_stream_ends_its_own_streams_only() {
    let (lab, client) = pingpong(3);
    // Six streams at a time, two with each replica, half a second each, begun to be answered almost at once.
    let args = ["--target", "ws002-pingpong:9000", "--method", "server-stream", "--messages", "10", "--delay-ms", "50"];
    let mut load = client.start_load(&[&args[..], &["--concurrency", "6"]].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let victim = &lab.pods_of("pingpong", "ws002-pingpong")[1];
    victim.crash().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let report = finish_load(&mut load).unwrap();
    println!("killed in mid-stream: {} ok, {} failed {:?}", report.ok, report.failed, report.errors);
    assert!((1..=6).contains(&report.failed), "its streams end with an error, not in silence: {report:?}");
    assert!(report.ok >= 20, "{report:?}");
    assert_eq!(report.connections_opened, 1, "{report:?}");
    lab.finish().unwrap();
}

#[test]
fn endpoints_that_refuse_reset_close_or_swallow_are_worked_around() {
    let (lab, client) = pingpong(2);
    for fault in ["refuse", "reset", "close", "blackhole"] {
        let bad = lab
            .pod(&format!("bad-{fault}"))
            .namespace("pingpong")
            .label("app", "ws002-pingpong")
            .unprobed_port("grpc", 9000)
            .app(&["faulty", "--port", "9000", fault])
            .start()
            .unwrap();
        settled(&lab, "pingpong/ws002-pingpong:9000", 3);
        let args = ["--target", "ws002-pingpong:9000", "--count", "120", "--rate", "100", "--timeout-ms", "3000"];
        let report = client.load(&args).unwrap();
        println!("{fault}: {} ok, {} failed {:?}", report.ok, report.failed, report.errors);
        assert_eq!(
            (report.ok, report.failed),
            (120, 0),
            "{fault}: nothing was processed, so nothing fails: {report:?}"
        );
        assert_eq!(report.replicas.len(), 2, "{fault}: the others take over: {report:?}");
        bad.delete().unwrap();
        settled(&lab, "pingpong/ws002-pingpong:9000", 2);
    }
    lab.finish().unwrap();
}

#[test]
fn a_broken_file_is_named_and_everything_else_goes_on() {
    let (lab, client) = pingpong(2);
    let broken = lab.config_dir().join("broken.yaml");
    std::fs::write(&broken, "kind: Service\nmetadata: {name: [\n").unwrap();
    let named = || {
        let found = lab.agent(0).ask(&["diagnostics"]).unwrap_or_default().to_string();
        found.contains("broken.yaml")
    };
    assert!(eventually(Duration::from_secs(3), named), "diagnostics name the file");
    assert_even(&client.load(&["--target", "ws002-pingpong:9000", "--count", "100"]).unwrap(), 2);
    lab.scale("pingpong", "ws002-pingpong", 3).unwrap();
    settled(&lab, "pingpong/ws002-pingpong:9000", 3);
    std::fs::remove_file(&broken).unwrap();
    assert!(eventually(Duration::from_secs(3), || !named()), "a repaired folder has no diagnostic");
    lab.finish().unwrap();
}

#[test]
fn removal_leaves_no_trace_and_connections_go_on() {
    let (lab, client) = {
        let lab = mesh_test::lab::Lab::builder().agent_args(&["--remove-on-exit"]).start().unwrap();
        lab.label_namespace("pingpong", "istio-injection", Some("enabled")).unwrap();
        lab.apply_yaml(support_node::PINGPONG).unwrap();
        lab.apply_yaml(TCP_ECHO).unwrap();
        let client = lab.pod("client").namespace("pingpong").start().unwrap();
        lab.agent(0).await_enrolled("pingpong", "client", true).unwrap();
        settled(&lab, "pingpong/tcp-echo:9000", 2);
        (lab, client)
    };
    let mut opaque = client.start_load(&["--target", "tcp-echo:9000", "--kind", "tcp", "--rate", "50"]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    lab.agent(0).stop(Duration::from_secs(40)).unwrap();
    assert!(!lab.agent(0).pins().unwrap().exists(), "pins are gone");
    let report = client.load(&["--target", "ws002-pingpong:9000", "--count", "20"]).unwrap();
    assert_eq!((report.ok, report.replicas.len()), (20, 1), "as if there never was a mesh: {report:?}");
    let opaque = finish_load(&mut opaque).unwrap();
    assert_eq!((opaque.failed, opaque.connections_opened), (0, 1), "{opaque:?}");
    lab.finish().unwrap();
}

/// How a call ends whose answer had begun.
const BEGUN: &str = "error reading a body from connection: stream error received";

/// Every failure names an address of this pod, or is of a call whose answer had begun: nothing can be told there any more.
fn only_with(victim: &Pod, report: &Report) {
    for error in report.errors.values() {
        let its_own = victim.ips().both().iter().any(|ip| error.message.contains(&ip.to_string()));
        assert!(
            its_own || error.message.contains(BEGUN),
            "a call failed that was not with {}: {report:?}",
            victim.name()
        );
    }
}
