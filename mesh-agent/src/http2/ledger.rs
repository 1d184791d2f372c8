//! The bound in total on what stalled readers make the agent hold.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes held for readers that do not read, all workers together.
///
/// Over the limit new requests are refused; over one and a half times the limit stalled streams are reset.
#[derive(Debug)]
pub struct Ledger {
    held: AtomicUsize,
    limit: usize,
}

impl Ledger {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Self {
        Self { held: AtomicUsize::new(0), limit }
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// No new request should start.
    pub fn is_full(&self) -> bool {
        self.held() > self.limit
    }

    /// Even running streams that stall must go.
    pub fn is_overdrawn(&self) -> bool {
        self.held() > self.limit.saturating_add(self.limit / 2)
    }

    /// Replaces one stream's share.
    pub(super) fn replace(&self, former: usize, now: usize) {
        if now >= former {
            self.held.fetch_add(now - former, Relaxed);
        } else {
            self.held.fetch_sub(former - now, Relaxed);
        }
    }
}
