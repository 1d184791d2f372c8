//! `mesh-bench tcp`: opaque bytes there and back, one exchange in flight per connection.

use super::load::Report;
use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(super) struct Args {
    /// One address, or several that the connections take in turn
    #[arg(long, required = true, value_delimiter = ',')]
    target: Vec<SocketAddr>,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Bytes of one exchange, each way
    #[arg(long, default_value_t = 128)]
    size: usize,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// Runs the exchanges and prints their [`Report`].
pub(super) fn run(args: &Args) -> Result<()> {
    let sockets = args.target.iter().cycle().take(args.connections);
    let sockets = sockets.map(|t| TcpStream::connect(t).with_context(|| format!("cannot connect to {t}")));
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    let start = Instant::now() + Duration::from_secs_f64(args.warmup);
    let end = start + Duration::from_secs_f64(args.seconds);
    let size = args.size;
    let threads = sockets.into_iter().map(|socket| thread::spawn(move || exchange(socket, size, start, end)));
    let threads = threads.collect::<Vec<_>>();
    thread::sleep(start.saturating_duration_since(Instant::now()));
    super::announce("start")?;
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut report = Report::default();
    for thread in threads {
        match thread.join().map_err(|_| anyhow!("a connection's thread panicked"))? {
            Ok(latency) => all.add(latency)?,
            Err(error) => {
                tracing::warn!("{error:#}");
                report.errors += 1;
            }
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    super::announce("end")?;
    report.calls = all.len();
    report.messages = all.len();
    report.bytes = all.len() * size as u64;
    let micros = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    (report.p50, report.p99, report.p999) = (micros(0.5), micros(0.99), micros(0.999));
    report.max = all.max() as f64 / 1e3;
    super::announce(&serde_json::to_string(&report)?)
}

/// Until the window ends, but at least one exchange.
fn exchange(mut socket: TcpStream, size: usize, start: Instant, end: Instant) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let (out, mut back) = (vec![7; size], vec![0; size]);
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    loop {
        let began = Instant::now();
        if began >= end && !latency.is_empty() {
            return Ok(latency);
        }
        socket.write_all(&out)?;
        socket.read_exact(&mut back)?;
        if began >= start {
            latency.saturating_record(began.elapsed().as_nanos() as u64);
        }
    }
}
