//! Bounds: a reader that stalls, many streams, many connections.

mod support_node;

use std::time::Duration;
use support_node::pingpong;

const MIB: u64 = 1 << 20;

#[test]
fn two_thousand_connections_and_ten_thousand_streams() {
    let (lab, client) = pingpong(2);
    client.load(&["--target", "ws002-pingpong:9000", "--count", "200", "--concurrency", "20"]).unwrap();
    let idle = lab.agent(0).memory().unwrap();

    let mut many = client
        .start_load(&[
            "--target",
            "ws002-pingpong:9000",
            "--connections",
            "2000",
            "--concurrency",
            "2000",
            "--delay-ms",
            "2000",
            "--timeout-ms",
            "60000",
            "--count",
            "4000",
        ])
        .unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let connections = lab.agent(0).memory().unwrap();
    many.wait(Duration::from_secs(90)).unwrap();
    let report = total(&many);
    println!("2,000 connections: {} KiB each, {report:?}", (connections.saturating_sub(idle)) / 2000 / 1024);
    assert_eq!((report.failed, report.ok, report.connections_opened), (0, 4000, 2000));
    assert!(connections < idle + 400 * MIB, "{} MiB", connections / MIB);
    drop(many);

    let mut streams = client
        .start_load(&[
            "--target",
            "ws002-pingpong:9000",
            "--connections",
            "100",
            "--concurrency",
            "10000",
            "--delay-ms",
            "6000",
            "--timeout-ms",
            "90000",
            "--count",
            "10000",
        ])
        .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let open = lab.agent(0).memory().unwrap();
    streams.wait(Duration::from_secs(110)).unwrap();
    let report = total(&streams);
    println!("10,000 streams: {} B each, {report:?}", open.saturating_sub(idle) / 10_000);
    assert_eq!((report.failed, report.ok), (0, 10_000));
    lab.finish().unwrap();
}

#[test]
fn a_stalled_reader_bounds_memory() {
    let (lab, client) = pingpong(1);
    let (before, kernel_before) = (lab.agent(0).memory().unwrap(), kernel_tcp_memory());
    // 20 callers ask for 60 × 1 MiB each, and stop reading a moment later.
    let load = client
        .start_load(&[
            "--target",
            "ws002-pingpong:9000",
            "--method",
            "server-stream",
            "--messages",
            "60",
            "--reply-bytes",
            "1048576",
            "--concurrency",
            "20",
            "--timeout-ms",
            "60000",
        ])
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    load.signal(rustix::process::Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let during = lab.agent(0).memory().unwrap();
    let kernel = kernel_tcp_memory().saturating_sub(kernel_before);
    println!("stalled reader of 20 streams: {} MiB → {} MiB, kernel +{} MiB", before / MIB, during / MIB, kernel / MIB);
    assert!(during < before + 96 * MIB, "{} MiB", during / MIB);
    assert!(kernel < 64 * MIB, "socket buffers hold {} MiB", kernel / MIB);
    // Others are served meanwhile.
    let other = client.load(&["--target", "ws002-pingpong:9000", "--count", "50"]).unwrap();
    assert_eq!((other.ok, other.failed), (50, 0), "{other:?}");
    drop(load);
    lab.finish().unwrap();
}

#[test]
fn without_file_descriptors_the_accept_loop_lives_on() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let (lab, client) = pingpong(2);
    let agent = lab.agent(0);
    let pid = agent.pid().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + 12), maximum: Some(open + 12) };
    prlimit(Pid::from_raw(pid.try_into().unwrap()), Resource::Nofile, limit).unwrap();
    let args = ["--target", "ws002-pingpong:9000", "--connections", "60", "--concurrency", "60", "--count", "120"];
    let starved = client.load(&[&args[..], &["--delay-ms", "300", "--timeout-ms", "3000"]].concat()).unwrap();
    println!("60 connections, {} descriptors left: {} ok, {} failed", 12, starved.ok, starved.failed);
    assert!(starved.failed > 0, "the limit was felt: {starved:?}");
    let after = client.load(&["--target", "ws002-pingpong:9000", "--count", "50"]).unwrap();
    assert_eq!((after.ok, after.failed), (50, 0), "descriptors are back, so is the service: {after:?}");
    lab.finish().unwrap();
}

/// Bytes in all TCP socket buffers of the machine.
fn kernel_tcp_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = line.split_whitespace().skip_while(|word| *word != "mem").nth(1).unwrap().parse().unwrap();
    // `KernelPageSize:        4 kB`
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let page = maps.lines().find(|line| line.starts_with("KernelPageSize:")).unwrap();
    let kib: u64 = page.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * kib * 1024
}

fn total(process: &mesh_test::lab::Process) -> mesh_test::apps::load::report::Report {
    use mesh_test::apps::load::Line;
    let lines = process.lines::<Line>();
    let last =
        lines.into_iter().find_map(|line| if let Line::Total { report, .. } = line { Some(report) } else { None });
    last.unwrap_or_else(|| panic!("no total: {}", process.output()))
}
