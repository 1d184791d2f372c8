//! The lab itself, without a mesh: pods, names, the kube-proxy stand-in, and that nothing is left behind.

mod support_node;

use mesh_test::lab::{Lab, Layout};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support_node::{PINGPONG, eventually, trace};

#[test]
fn without_a_mesh_one_connection_means_one_replica() {
    let lab = Lab::builder().nodes(2).without_agents().start().unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    let client = lab.pod("client").namespace("pingpong").start().unwrap();
    for target in ["ws002-pingpong:9000", "ws002-pingpong.pingpong.svc.cluster.local:9000"] {
        let report = client.load(&["--target", target, "--count", "100"]).unwrap();
        assert_eq!((report.ok, report.failed, report.connections_opened), (100, 0, 1), "{report:?}");
        assert_eq!(report.replicas.len(), 1, "a connection is balanced once: {report:?}");
    }
    let many = client.load(&["--target", "ws002-pingpong:9000", "--count", "60", "--reconnect"]).unwrap();
    assert_eq!(many.ok, 60, "{many:?}");
    assert_eq!(many.replicas.len(), 2, "connections are balanced: {many:?}");
    // Two nodes, two replicas: one of them is behind the fabric.
    let nodes: BTreeSet<_> =
        lab.pods_of("pingpong", "ws002-pingpong").iter().map(|pod| pod.ips().v4.octets()[2]).collect();
    assert_eq!(nodes.len(), 2);
    lab.finish().unwrap();
}

#[test]
fn pods_are_reached_by_both_families_and_leave_in_order() {
    let lab = Lab::builder().without_agents().start().unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    let client = lab.pod("client").namespace("pingpong").start().unwrap();
    let replica = &lab.pods_of("pingpong", "ws002-pingpong")[0];
    let vip = lab.services().iter().find(|s| s.service.name == "ws002-pingpong").unwrap().ips.unwrap();
    for target in [
        format!("{}:9000", replica.ips().v4),
        format!("[{}]:9000", replica.ips().v6),
        format!("{}:9000", vip.v4),
        format!("[{}]:9000", vip.v6),
        format!("[::ffff:{}]:9000", vip.v4),
    ] {
        let outcome = client.call(&["--target", &target]).unwrap();
        assert!(outcome.ok, "{target}: {outcome:?}");
    }
    let mut load = client.start_load(&["--target", "ws002-pingpong:9000", "--rate", "200", "--reconnect"]).unwrap();
    lab.scale("pingpong", "ws002-pingpong", 4).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    lab.scale("pingpong", "ws002-pingpong", 1).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lab.pods_of("pingpong", "ws002-pingpong").len(), 1);
    let report = mesh_test::lab::finish_load(&mut load).unwrap();
    assert!(report.ok > 50 && report.replicas.len() >= 3, "{report:?}");
    lab.finish().unwrap();
}

#[test]
fn a_normal_end_leaves_no_trace() {
    let lab = Lab::builder().without_agents().start().unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    let id = lab.id().to_owned();
    assert!(!trace(&Layout::new(&id)).is_empty(), "the check can see a lab that is up");
    lab.finish().unwrap();
    assert_eq!(trace(&Layout::new(&id)), Vec::<String>::new());
}

#[test]
fn a_panic_leaves_no_trace() {
    let (tx, rx) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let lab = Lab::builder().without_agents().start().unwrap();
        tx.send(lab.id().to_owned()).unwrap();
        panic!("on purpose");
    });
    let id = rx.recv().unwrap();
    assert!(thread.join().is_err());
    assert_eq!(trace(&Layout::new(&id)), Vec::<String>::new());
}

#[test]
fn signals_and_kill_9_leave_no_trace() {
    for signal in ["INT", "TERM", "KILL"] {
        let (mut lab, id) = start_story();
        assert!(!trace(&Layout::new(&id)).is_empty());
        let pid = lab.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let began = Instant::now();
        lab.wait().unwrap();
        eventually(Duration::from_secs(15), || trace(&Layout::new(&id)).is_empty());
        assert_eq!(trace(&Layout::new(&id)), Vec::<String>::new(), "after SIG{signal}, {:?}", began.elapsed());
    }
}

#[test]
fn the_next_lab_removes_what_a_dead_one_left() {
    let (mut lab, id) = start_story();
    let mut janitors = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).collect();
        if words.contains(&b"janitor".as_slice()) && words.contains(&id.as_bytes()) {
            janitors.push(process.file_name().to_string_lossy().into_owned());
        }
    }
    assert_eq!(janitors.len(), 1, "a lab has one janitor");
    // The janitor first: nobody is left to clean up.
    for pid in [&janitors[0], &lab.id().to_string()] {
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    }
    lab.wait().unwrap();
    assert!(!trace(&Layout::new(&id)).is_empty(), "there is something to remove");
    let next = Lab::builder().without_agents().without_kube_proxy().start().unwrap();
    assert_eq!(trace(&Layout::new(&id)), Vec::<String>::new());
    next.finish().unwrap();
}

/// `mesh-lab run` with agents and all, until it has said its id, brought pods up and begun its story.
fn start_story() -> (Child, String) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_mesh-lab"))
        .args(["run", "--keep", "-o", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    for line in BufReader::new(lab.stdout.take().unwrap()).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if let Some(lab) = event["lab"].as_str() {
            lab.clone_into(&mut id);
        }
        if event["event"] == "up" {
            break;
        }
    }
    assert!(!id.is_empty(), "mesh-lab did not say its id");
    (lab, id)
}
