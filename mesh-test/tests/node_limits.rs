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
    let before = lab.agent(0).memory().unwrap();
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
    println!("stalled reader of 20 streams: {} MiB → {} MiB", before / MIB, during / MIB);
    assert!(during < before + 96 * MIB, "{} MiB", during / MIB);
    // Others are served meanwhile.
    let other = client.load(&["--target", "ws002-pingpong:9000", "--count", "50"]).unwrap();
    assert_eq!((other.ok, other.failed), (50, 0), "{other:?}");
    drop(load);
    lab.finish().unwrap();
}

fn total(process: &mesh_test::lab::Process) -> mesh_test::apps::load::report::Report {
    use mesh_test::apps::load::Line;
    let lines = process.lines::<Line>();
    let last =
        lines.into_iter().find_map(|line| if let Line::Total { report, .. } = line { Some(report) } else { None });
    last.unwrap_or_else(|| panic!("no total: {}", process.output()))
}
