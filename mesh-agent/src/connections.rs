//! Client connections that are open, for whoever looks after the agent.
//!
//! Place in the path: `listen` enters a connection, its worker keeps it up to date, the admin socket reads. Invariant: a
//! look takes nothing from the data path but a lock that is otherwise held when a connection opens or ends.

use crate::addr::ClientAddr;
use crate::time::Nanos;
use mesh_common::Reason;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All open connections, oldest first.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

/// What is known of one connection. The counters have one writer, its worker.
#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub client: ClientAddr,
    /// `namespace/name` of the pod that made it; `None`: an explicit listener's.
    pub source: Option<Box<str>>,
    /// The original destination, or the explicit listener's port.
    pub destination: Box<str>,
    pub opened: Nanos,
    captured: Option<Captured>,
    speaks: AtomicU8,
    requests: AtomicU64,
    streams: AtomicU32,
    received: AtomicU64,
    sent: AtomicU64,
}

/// Asks the kernel's map for a captured connection's flow: bytes that it took past TCP/IP so far, `None` where it has gone.
pub struct Captured(pub Box<dyn Fn() -> Option<u64> + Send + Sync>);

/// What the kernel's maps say of a captured connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Why it came to the agent.
    pub verdict: Reason,
    /// Between app and agent past TCP/IP (sk_msg), both ways; `None`: the connection has ended.
    pub redirected_bytes: Option<u64>,
}

/// What a connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaks {
    Unknown,
    Http1,
    Http2,
    Opaque,
}

/// Keeps a connection listed until it is dropped.
#[derive(Debug)]
pub struct Listed {
    all: Arc<Connections>,
    pub connection: Arc<Connection>,
}

/// A request of a connection.
#[derive(Debug)]
pub struct UnderWay(Arc<Connection>);

impl Connections {
    pub fn enter(
        self: &Arc<Self>,
        client: ClientAddr,
        source: Option<String>,
        destination: String,
        captured: Option<Captured>,
    ) -> Listed {
        let id = self.next.fetch_add(1, Relaxed);
        let connection = Arc::new(Connection {
            id,
            client,
            source: source.map(Into::into),
            destination: destination.into(),
            opened: Nanos::now(),
            captured,
            speaks: AtomicU8::new(Speaks::Unknown as u8),
            requests: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        self.lock().insert(id, Arc::clone(&connection));
        Listed { all: Arc::clone(self), connection }
    }

    /// The oldest ones, `most` at most.
    pub fn oldest(&self, most: usize) -> Vec<Arc<Connection>> {
        self.lock().values().take(most).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.all.lock().remove(&self.connection.id);
    }
}

impl Connection {
    pub fn speaks(&self) -> Speaks {
        const KNOWN: [Speaks; 3] = [Speaks::Http1, Speaks::Http2, Speaks::Opaque];
        let number = self.speaks.load(Relaxed);
        KNOWN.into_iter().find(|known| *known as u8 == number).unwrap_or(Speaks::Unknown)
    }

    pub fn set_speaks(&self, speaks: Speaks) {
        self.speaks.store(speaks as u8, Relaxed);
    }

    /// A system call: for whoever looks at this one. `None`: the kernel did not bring it here.
    pub fn kernel(&self) -> Option<KernelFacts> {
        let Captured(redirected) = self.captured.as_ref()?;
        Some(KernelFacts { verdict: Reason::ToAgent, redirected_bytes: redirected() })
    }

    /// HTTP requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Requests under way.
    pub fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    /// Counts a request, as under way until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.requests.store(self.requests().wrapping_add(1), Relaxed);
        self.streams.store(self.streams().wrapping_add(1), Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Bytes from the client.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Bytes to the client.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub fn add_received(&self, bytes: usize) {
        self.received.store(self.received().wrapping_add(bytes as u64), Relaxed);
    }

    pub fn add_sent(&self, bytes: usize) {
        self.sent.store(self.sent().wrapping_add(bytes as u64), Relaxed);
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Captured")
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.streams.store(self.0.streams().saturating_sub(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_listed_oldest_first_and_bounded() {
        let all = Arc::new(Connections::default());
        let enter = |port: u16| all.enter(ClientAddr::new(([127, 0, 0, 1], port).into()), None, port.to_string(), None);
        let (first, second, third) = (enter(1), enter(2), enter(3));
        second.connection.set_speaks(Speaks::Http2);
        let running = second.connection.begin();
        drop(second.connection.begin());
        drop(first);
        let shown = |most| all.oldest(most).iter().map(|c| c.destination.to_string()).collect::<Vec<_>>();
        assert_eq!((shown(9), shown(1)), (vec!["2".into(), "3".into()], vec!["2".to_owned()]));
        let open = &all.oldest(1)[0];
        assert_eq!((open.speaks(), open.requests(), open.streams()), (Speaks::Http2, 2, 1));
        drop(running);
        assert_eq!((open.requests(), open.streams()), (2, 0));
        let kept = all.enter(second.connection.client, None, String::new(), Some(Captured(Box::new(|| Some(7)))));
        let facts = KernelFacts { verdict: Reason::ToAgent, redirected_bytes: Some(7) };
        assert_eq!((second.connection.kernel(), kept.connection.kernel()), (None, Some(facts)));
        drop((second, third, kept));
        assert!(all.oldest(9).is_empty());
    }
}
