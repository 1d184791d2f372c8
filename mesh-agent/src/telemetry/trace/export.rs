//! The thread that sends spans: in batches, again where that may help, never in anybody's way.

use super::post::{PostError, Poster};
use super::span::Span;
use crate::snapshot::Snapshot;
use crate::snapshot::tracing::Collector;
use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Requests whose spans wait; each has at most a few KiB of text.
pub(super) const QUEUE: usize = 4096;
/// Spans of one request to the collector, or a few more: those of one request stay together.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How often it looks whether others have come.
const GLANCE: Duration = Duration::from_millis(20);
/// Pauses before a batch is sent again; after the last one it is dropped.
const PAUSES: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    pub sent: AtomicU64,
    /// The queue was full, or the collector did not take them.
    pub dropped: AtomicU64,
}

/// Spans of one request, to be made.
type Unmade = Box<dyn FnOnce(&mut Vec<Span>) + Send>;

/// The way to one collector. The thread ends when the last holder is gone and the queue is empty.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) collector: Arc<Collector>,
    queue: mpsc::Sender<Unmade>,
    counts: Arc<Counts>,
}

impl Exporter {
    /// # Errors
    /// As `pthread_create(3)`, or no runtime can be made.
    pub(super) fn start(
        collector: Arc<Collector>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        counts: Arc<Counts>,
    ) -> io::Result<Self> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let poster = Poster::new(Arc::clone(&collector), snapshot);
        let sending = Sending { name: Arc::clone(&collector), poster, counts: Arc::clone(&counts), failing: false };
        thread::Builder::new().name("spans".to_owned()).spawn(move || runtime.block_on(sending.run(spans)))?;
        Ok(Self { collector, queue, counts })
    }

    /// Never waits. `make`: appends so many spans, on the thread that sends them.
    pub(super) fn take(&self, count: usize, make: impl FnOnce(&mut Vec<Span>) + Send + 'static) {
        if self.queue.try_send(Box::new(make)).is_err() {
            self.counts.dropped.fetch_add(count as u64, Relaxed);
        }
    }
}

struct Sending {
    name: Arc<Collector>,
    poster: Poster,
    counts: Arc<Counts>,
    /// It was said that spans cannot be sent.
    failing: bool,
}

impl Sending {
    async fn run(mut self, mut spans: mpsc::Receiver<Unmade>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = spans.recv().await {
            first(&mut batch);
            let until = Instant::now() + GATHER;
            // Looked for, not waited for: each span that wakes this thread takes the CPU from a worker twice.
            loop {
                while batch.len() < BATCH
                    && let Ok(make) = spans.try_recv()
                {
                    make(&mut batch);
                }
                if batch.len() >= BATCH || spans.is_closed() || Instant::now() >= until {
                    break;
                }
                sleep(GLANCE).await;
            }
            self.send(&batch).await;
            batch.clear();
        }
    }

    async fn send(&mut self, batch: &[Span]) {
        let count = batch.len() as u64;
        let mut pauses = PAUSES.into_iter();
        loop {
            let (error, pause) = match self.poster.post(batch).await {
                Ok(rejected) => {
                    self.counts.sent.fetch_add(count.saturating_sub(rejected), Relaxed);
                    self.counts.dropped.fetch_add(rejected.min(count), Relaxed);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = %self.name.name, "spans are sent again");
                    }
                    return;
                }
                Err(error @ PostError::Refused(_)) => (error, None),
                Err(error @ PostError::Failed(_)) => (error, pauses.next()),
            };
            // Once per outage.
            if !std::mem::replace(&mut self.failing, true) {
                let Collector { name, host, port, .. } = &*self.name;
                tracing::warn!(collector = %name, %host, port, %error, "spans are not taken; they are dropped and counted");
            }
            let Some(pause) = pause else {
                self.counts.dropped.fetch_add(count, Relaxed);
                return;
            };
            sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests;
