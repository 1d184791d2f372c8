//! Ending well: who must stop taking new work, and who still works.
//!
//! Place in the path: every connection holds a `Watch`. Invariant: after `Drain::start` no new request is accepted on
//! an existing connection except those its client began before it heard of it.

use tokio::sync::watch;

/// Starts the end of a group of connections.
#[derive(Debug)]
pub struct Drain {
    sender: watch::Sender<bool>,
}

/// Tells a connection when its end begins.
#[derive(Clone, Debug)]
pub struct Watch {
    receiver: watch::Receiver<bool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { sender: watch::Sender::new(false) }
    }
}

impl Drain {
    pub fn watch(&self) -> Watch {
        Watch { receiver: self.sender.subscribe() }
    }

    pub fn start(&self) {
        self.sender.send_replace(true);
    }
}

impl Watch {
    /// Returns once the end has begun (or its `Drain` is gone).
    pub async fn started(&mut self) {
        // An error means the sender is gone: the agent is ending.
        let _ = self.receiver.wait_for(|started| *started).await;
    }

    pub fn has_started(&self) -> bool {
        *self.receiver.borrow()
    }
}
