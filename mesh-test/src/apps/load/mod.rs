//! The load generator: closed loop (`--concurrency`) or open loop (`--rate`) over a fixed number of connections.

pub mod client;
mod grpc;
mod http;
pub mod report;
mod tcp;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{CallArgs, Client};
use self::report::{Report, Tally};
use super::event::emit;
use super::listen::Shutdown;
use super::pod::{Pod, PodArgs};

/// More calls than this at once are not started: an open loop against a dead target must not eat the machine.
const IN_FLIGHT_LIMIT: usize = 10_000;

/// Arguments of `mesh-app load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub call: CallArgs,
    /// Open loop: calls a second, on time whatever the answers do. Latency counts from when a call was due.
    #[arg(long, conflicts_with = "concurrency")]
    pub rate: Option<f64>,
    /// Closed loop: calls at a time.
    #[arg(long, default_value_t = 1)]
    pub concurrency: usize,
    /// Connections to spread the calls over.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Seconds to run.
    #[arg(long)]
    pub duration: Option<f64>,
    /// Calls to make.
    #[arg(long)]
    pub count: Option<u64>,
    /// Milliseconds between interval lines; 0 prints the total only.
    #[arg(long, default_value_t = 250)]
    pub interval_ms: u64,
    #[command(flatten)]
    pub pod: PodArgs,
}

/// A line of the load's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Line {
    /// What happened since the last interval.
    Interval { pod: String, target: String, report: Report },
    /// What happened since the start; the last line.
    Total { pod: String, target: String, report: Report },
}

/// Runs until the count or the duration is reached, or SIGTERM or SIGINT. Failed calls do not end it.
///
/// # Errors
/// The arguments are wrong (see [`Client::new`]).
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    let pod = Pod::from(args.pod.clone());
    let shutdown = Shutdown::on_signals(&pod)?;
    let (name, target) = (pod.name.to_string(), args.call.target.clone());
    let report = drive(&args, shutdown, |report| {
        emit(&Line::Interval { pod: name.clone(), target: target.clone(), report });
    })
    .await?;
    emit(&Line::Total { pod: name, target, report });
    Ok(())
}

/// The load itself: `on_interval` gets each interval's report, the total is returned.
///
/// # Errors
/// As [`run`].
pub async fn drive(args: &LoadArgs, shutdown: Shutdown, on_interval: impl FnMut(Report)) -> anyhow::Result<Report> {
    if let Some(rate) = args.rate {
        anyhow::ensure!(rate.is_finite() && rate > 0.0, "--rate must be above 0");
    }
    let duration = args.duration.map(Duration::try_from_secs_f64).transpose()?;
    let client = Client::new(args.call.clone(), args.connections)?;
    let load = Load {
        client,
        stretch: Arc::default(),
        started: Instant::now(),
        left: args.count.unwrap_or(u64::MAX),
        interval: Duration::from_millis(args.interval_ms),
    };
    let end = async move {
        match duration {
            Some(duration) => tokio::select! { () = tokio::time::sleep(duration) => {}, () = shutdown.wait() => {} },
            None => shutdown.wait().await,
        }
    };
    Ok(load.run(args.rate, args.concurrency.max(1), end, on_interval).await)
}

struct Load {
    client: Arc<Client>,
    stretch: Arc<Mutex<Tally>>,
    started: Instant,
    /// Calls still to start.
    left: u64,
    interval: Duration,
}

impl Load {
    async fn run(
        mut self,
        rate: Option<f64>,
        concurrency: usize,
        end: impl Future<Output = ()>,
        mut on_interval: impl FnMut(Report),
    ) -> Report {
        let (mut total, mut calls, mut begun) = (Tally::default(), JoinSet::new(), 0_u64);
        let period = if self.interval.is_zero() { Duration::from_secs(3600) } else { self.interval };
        let mut tick = tokio::time::interval_at(self.started + period, period);
        let mut last = self.started;
        let mut ending = false;
        tokio::pin!(end);
        loop {
            // What is due: the closed loop fills up to its concurrency, the open loop follows its clock.
            let now = Instant::now();
            let due = match rate {
                Some(rate) => ((now - self.started).as_secs_f64() * rate) as u64 + 1,
                None => begun + (concurrency as u64).saturating_sub(calls.len() as u64),
            };
            while !ending && begun < due && self.left > 0 && calls.len() < IN_FLIGHT_LIMIT {
                let from = rate.map_or(now, |rate| self.started + Duration::from_secs_f64(begun as f64 / rate));
                self.start(&mut calls, from);
                begun += 1;
            }
            if calls.is_empty() && (ending || self.left == 0) {
                break;
            }
            let next = match rate {
                Some(rate) => self.started + Duration::from_secs_f64(begun as f64 / rate),
                None => now + period,
            };
            let paced = rate.is_some() && !ending && self.left > 0 && calls.len() < IN_FLIGHT_LIMIT;
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    let report = self.collect(&mut total, &mut last, calls.len());
                    if !self.interval.is_zero() {
                        on_interval(report);
                    }
                }
                () = &mut end, if !ending => ending = true,
                Some(_) = calls.join_next() => {}
                () = tokio::time::sleep_until(next), if paced => {}
            }
        }
        self.collect(&mut total, &mut last, 0);
        total.report(self.started.elapsed(), 0, self.client.opened())
    }

    fn start(&mut self, calls: &mut JoinSet<()>, from: Instant) {
        self.left -= 1;
        let (client, stretch) = (self.client.clone(), self.stretch.clone());
        calls.spawn(async move {
            let outcome = client.call().await;
            let latency = from.elapsed();
            match outcome {
                Ok(answer) => lock(&stretch).success(&answer.replica, answer.messages, latency),
                Err(failure) => lock(&stretch).failure(&failure.code, &failure.message, latency),
            }
        });
    }

    /// The stretch since `last`, moved into `total`.
    fn collect(&self, total: &mut Tally, last: &mut Instant, in_flight: usize) -> Report {
        let now = Instant::now();
        let mut stretch = lock(&self.stretch);
        let report = stretch.report(now - *last, in_flight as u64, self.client.opened());
        total.absorb(&mut stretch);
        *last = now;
        report
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
