//! Ending well: who must stop taking new work, and who still works.
//!
//! Place in the path: every connection holds a `Watch`. Invariant: after `Drain::start` no new request is accepted on
//! an existing connection except those its client began before it heard of it.
//!
//! HTTP/2 has a word for it (GOAWAY), so its idle connections close when their clients have heard it, within a second.
//! An HTTP/1.1 client hears of it with an answer only (`connection: close`): a connection closed while idle is one on
//! which a request may be under way, so those stay open for a grace.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Starts the end of a group of connections.
#[derive(Debug)]
pub struct Drain {
    /// Until when idle connections stay; `None`: nothing ends.
    sender: watch::Sender<Option<Instant>>,
}

/// Tells a connection when its end begins.
#[derive(Clone, Debug)]
pub struct Watch {
    receiver: watch::Receiver<Option<Instant>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { sender: watch::Sender::new(None) }
    }
}

impl Drain {
    pub fn watch(&self) -> Watch {
        Watch { receiver: self.sender.subscribe() }
    }

    /// `grace`: how long connections that can only be told with an answer may wait for a request.
    pub fn start(&self, grace: Duration) {
        self.sender.send_replace(Some(Instant::now() + grace));
    }
}

impl Watch {
    /// Returns once the end has begun (or its `Drain` is gone).
    pub async fn started(&mut self) {
        // An error means the sender is gone: the agent is ending.
        let _ = self.receiver.wait_for(Option::is_some).await;
    }

    /// Returns once the grace is over, too.
    pub async fn grace_over(&mut self) {
        let until = self.receiver.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    pub fn has_started(&self) -> bool {
        self.receiver.borrow().is_some()
    }
}
