//! What the node tests share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use mesh_test::apps::load::report::Report;
use mesh_test::lab::{Lab, Layout, Pod};
use std::fs;
use std::time::{Duration, Instant};

/// Scenario A's app, as users bring it.
pub const PINGPONG: &str = include_str!("../../../deploy/examples/pingpong.yaml");

/// Asks until it is so, or the time is over; says which.
pub fn eventually(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Everything of a lab that can be found on this machine.
pub fn trace(layout: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: String| found.push(what);
    if layout.root().exists() {
        note(format!("run directory {}", layout.root().display()));
    }
    let cgroup = layout.cgroup().unwrap();
    if cgroup.path().exists() {
        note(format!("cgroup {} with {:?}", cgroup.path().display(), cgroup.processes()));
    }
    layout.pins().unwrap().iter().for_each(|pin| note(format!("pins {}", pin.display())));
    let marker = format!("lab-{}", layout.id);
    for mount in fs::read_to_string("/proc/mounts").unwrap().lines().filter(|line| line.contains(&marker)) {
        note(format!("mount {mount}"));
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&marker) || (command.contains("janitor") && command.contains(&layout.id)) {
            note(format!("process {}: {command}", process.file_name().to_string_lossy()));
        }
    }
    found
}

/// Ping-pong with `replicas`, its namespace in the mesh, and a client pod whose agent knows it.
pub fn pingpong(replicas: usize) -> (Lab, Pod) {
    let lab = Lab::builder().start().unwrap();
    lab.label_namespace("pingpong", "istio-injection", Some("enabled")).unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    lab.scale("pingpong", "ws002-pingpong", replicas).unwrap();
    let client = lab.pod("client").namespace("pingpong").start().unwrap();
    lab.agent(0).await_enrolled("pingpong", "client", true).unwrap();
    settled(&lab, "pingpong/ws002-pingpong:9000", replicas);
    (lab, client)
}

/// Waits until the agent sees so many ready endpoints.
pub fn settled(lab: &Lab, service: &str, ready: usize) {
    let seen = || {
        let rows = lab.agent(0).ask(&["endpoints", service.split(':').next().unwrap()]).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        // Each pod has an IPv4 and may have an IPv6 endpoint; a pod counts once.
        let pods: std::collections::BTreeSet<_> = rows
            .iter()
            .filter(|row| row["service"] == service && row["health"] == "ready")
            .filter_map(|row| row["workload"].as_str().map(str::to_owned))
            .collect();
        pods.len()
    };
    assert!(eventually(Duration::from_secs(20), || seen() == ready), "{service}: {} ready, not {ready}", seen());
}

/// Every replica within one of an even share.
pub fn assert_even(report: &Report, replicas: usize) {
    assert_eq!(report.replicas.len(), replicas, "{report:?}");
    let share = report.ok / replicas as u64;
    for (pod, count) in &report.replicas {
        assert!(count.abs_diff(share) <= 1, "{pod} has {count} of {}: {report:?}", report.ok);
    }
}
