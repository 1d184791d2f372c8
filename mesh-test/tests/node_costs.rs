//! What the agent says that pods cost it, beside what the kernel says of its threads.

mod support_node;

use mesh_test::lab::{Lab, Pod};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use support_node::{eventually, pingpong};

/// CPU seconds of the agent's threads whose names begin with `name`, to the nanosecond (first field of schedstat).
fn threads(lab: &Lab, name: &str) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", lab.agent(0).pid().unwrap())).unwrap();
    let nanos = tasks.flatten().filter_map(|task| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
        let told = read("comm")?.starts_with(name).then(|| read("schedstat")).flatten()?;
        told.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}

/// CPU seconds of the process, threads that have ended included, in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn process(lab: &Lab) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", lab.agent(0).pid().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    [11, 12].iter().map(|at| fields[*at].parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// CPU seconds by pod, as `top pods` says.
fn pods(lab: &Lab) -> BTreeMap<String, f64> {
    let top = lab.agent(0).ask(&["top", "pods", "--total"]).unwrap();
    let row = |row: &serde_json::Value| Some((row["name"].as_str()?.to_owned(), row["cpu_seconds"].as_f64()?));
    top["rows"].as_array().unwrap().iter().filter_map(row).collect()
}

fn calls(pod: &Pod, count: &str) {
    let args = ["--target", "ws002-pingpong:9000", "--concurrency", "20", "--interval-ms", "0", "--count", count];
    let report = pod.load(&args).unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
}

#[test]
fn pods_pay_for_what_they_ask_and_for_all_of_it() {
    let (lab, client) = pingpong(2);
    let other = lab.pod("other").namespace("pingpong").start().unwrap();
    lab.agent(0).await_enrolled("pingpong", "other", true).unwrap();
    let (workers, process, paid) = (threads(&lab, "worker-"), process(&lab), pods(&lab));
    calls(&client, "60000");
    calls(&other, "20000");
    // Each worker shares out what it has used once a second.
    let mut last = pods(&lab);
    let settled = eventually(Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(2_500));
        let former = std::mem::replace(&mut last, pods(&lab));
        former == last
    });
    assert!(settled, "pods that do nothing pay on: {last:?}");
    let (workers, process) = (threads(&lab, "worker-") - workers, crate::process(&lab) - process);
    let of = |pod: &str| last.get(pod).copied().unwrap_or(0.0) - paid.get(pod).copied().unwrap_or(0.0);
    let (client, other) = (of("pingpong/client"), of("pingpong/other"));
    let sum = client + other;
    println!("client {client:.3} s, other {other:.3} s; workers {workers:.3} s, process {process:.3} s");
    // Beside pods: ticks and sweeps of workers; of the process, also its answers to this test.
    assert!(sum > 0.9 * workers && sum < 1.02 * workers, "pods {sum:.3} s, workers {workers:.3} s");
    assert!(sum > 0.75 * process, "pods {sum:.3} s, process {process:.3} s");
    let ratio = client / other;
    // What a call costs differs by what else the machine does meanwhile.
    assert!((1.5..6.0).contains(&ratio), "three times as many calls cost {ratio:.2} times as much");
    lab.finish().unwrap();
}
