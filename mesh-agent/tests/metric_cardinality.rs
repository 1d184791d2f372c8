//! A client that names a new host with each request: series and memory stay bounded, and nothing is left uncounted.

use mesh_agent::telemetry::{Callee, Format, MOST_SERIES, Metrics, Record, Recorder};
use mesh_agent::time::Nanos;
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// A million where the build is fast enough for it.
const HOSTS: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// What they may cost beside what was there before, bytes.
const MOST_MEMORY: usize = 32 << 20;

#[test]
fn a_million_hosts_cost_no_more_than_the_budget() {
    let metrics = Arc::new(Metrics::new(MOST_SERIES).unwrap());
    let recorder = Recorder::new(Arc::clone(&metrics), Arc::default());
    let before = ALLOC.current_usage();
    ALLOC.reset_peak_usage();
    for number in 0..HOSTS {
        let host = format!("host-{number}.example");
        let callee = Arc::new(Callee::undeclared("PassthroughCluster", Some(&host)));
        let mut record = Record::new(recorder.series(None, &callee, None, || None), Nanos::now());
        record.code = Some(http::StatusCode::OK);
        record.complete = true;
    }
    let grown = ALLOC.peak_usage().saturating_sub(before);
    assert!(grown <= MOST_MEMORY, "{grown} bytes more");
    let text = metrics.gather(Format::Text);
    let series = text.lines().filter(|line| line.starts_with("istio_")).count();
    assert!(series <= MOST_SERIES, "{series} series");
    let requests = || text.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let count = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap();
    let overflow = requests().find(|line| line.contains("destination_service=\"overflow\"")).expect("it is visible");
    assert_eq!(requests().map(count).sum::<usize>(), HOSTS, "each request is counted once");
    assert!(count(overflow) > HOSTS / 2, "{overflow}");
    let refused = text.lines().find(|line| line.starts_with("mesh_metric_series_overflow_total ")).unwrap();
    assert!(count(refused) >= HOSTS / 2, "{refused}");
    println!("{HOSTS} hosts: {series} series, {grown} bytes at most");
}
