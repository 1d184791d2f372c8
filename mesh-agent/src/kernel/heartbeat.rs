//! The beat: `BEAT[0]` holds the last moment at which the agent was alive; the connect hooks read it.
//!
//! Invariant: it is written only while every worker ticks, so that a hung worker is as visible as a dead process.

use super::{Config, KernelError, maps};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Stops when dropped: captured destinations follow their failure policy from one `beat_max_age` later.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    beats: Arc<AtomicU64>,
}

/// One counter per worker. A worker calls [`Ticks::tick`] a few times a second from its event loop.
#[derive(Clone, Debug)]
pub struct Ticks {
    workers: Arc<[AtomicU64]>,
    /// A worker that has not ticked for this long is hung.
    stall: Duration,
}

/// Time between two beats.
const PERIOD: Duration = Duration::from_millis(200);

impl Ticks {
    pub fn new(workers: usize, stall: Duration) -> Self {
        Self { workers: (0..workers).map(|_| AtomicU64::new(0)).collect(), stall }
    }

    /// Counters that the workers keep themselves.
    pub fn of(workers: Arc<[AtomicU64]>, stall: Duration) -> Self {
        Self { workers, stall }
    }

    /// Worker `index` is alive. Out-of-range indices are ignored.
    pub fn tick(&self, index: usize) {
        if let Some(worker) = self.workers.get(index) {
            worker.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Heartbeat {
    pub(super) fn start(config: &Config, ticks: Ticks) -> Result<Self, KernelError> {
        let mut beat = maps::array::<u64>(&config.pin_dir, "BEAT")?;
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let beats = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&beats);
        let mut watch = Watch::new(ticks, Instant::now());
        // The first beat is there when this returns: connections may be sent to the agent at once.
        write(&mut beat, &count);
        let thread = thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                while stopped.recv_timeout(PERIOD) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    if watch.alive(Instant::now()) {
                        write(&mut beat, &count);
                    }
                }
            })
            .map_err(|source| KernelError::Thread { name: "heartbeat", source })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), beats })
    }

    /// Beats written so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only sleeps and writes one map entry: joining takes microseconds.
            let _ = thread.join();
        }
    }
}

/// Remembers when each worker was last seen to tick.
struct Watch {
    ticks: Ticks,
    seen: Vec<(u64, Instant)>,
}

impl Watch {
    fn new(ticks: Ticks, now: Instant) -> Self {
        let seen = ticks.workers.iter().map(|worker| (worker.load(Ordering::Relaxed), now)).collect();
        Self { ticks, seen }
    }

    fn alive(&mut self, now: Instant) -> bool {
        let stall = self.ticks.stall;
        let mut alive = true;
        for (worker, (count, since)) in self.ticks.workers.iter().zip(&mut self.seen) {
            let current = worker.load(Ordering::Relaxed);
            if current != *count {
                (*count, *since) = (current, now);
            } else if now.duration_since(*since) > stall {
                alive = false;
            }
        }
        alive
    }
}

/// CLOCK_MONOTONIC in ns, as `bpf_ktime_get_ns` gives it.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn write(beat: &mut aya::maps::Array<aya::maps::MapData, u64>, count: &AtomicU64) {
    match beat.set(0, monotonic_ns(), 0) {
        Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
        Err(error) => tracing::warn!(%error, "cannot write the heartbeat"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hung_worker_stops_the_beat_and_recovery_resumes_it() {
        let ticks = Ticks::new(2, Duration::from_millis(800));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch::new(ticks.clone(), start);
        for ms in (0..2000).step_by(200) {
            ticks.tick(0);
            assert_eq!(watch.alive(at(ms)), ms <= 800, "{ms} ms");
        }
        ticks.tick(1);
        assert!(watch.alive(at(2000)));
    }

    #[test]
    fn no_workers_is_alive() {
        assert!(Watch::new(Ticks::new(0, Duration::ZERO), Instant::now()).alive(Instant::now()));
    }
}
