//! What the kernel knows of the connections to endpoints, by Service port.
//!
//! A request pays nothing for it: a [`Link`] is read when its connection ends, by the control thread each
//! [`Links::SAMPLED`], and by whoever tells of one request that somebody looks at (a span, a tap).

use crate::net::{self, TcpInfo};
use crate::snapshot::PortKey;
use mesh_common::maps::{SRTT_BUCKETS, srtt_bucket};
use rustc_hash::FxHashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpStream;

/// Of all Service ports; shared by all threads. Locked when an upstream is made, and by the control thread.
#[derive(Debug, Default)]
pub struct Links {
    ports: Mutex<FxHashMap<PortKey, Arc<PortLinks>>>,
}

/// Of one Service port, since it was first used.
#[derive(Debug, Default)]
pub(super) struct PortLinks {
    /// Round-trip times as they were seen: of each connection that sends, once each [`Links::SAMPLED`]; of one that
    /// ends before that, at its end.
    srtt: [AtomicU64; SRTT_BUCKETS],
    srtt_us_sum: AtomicU64,
    retransmits: AtomicU64,
    /// Locked when a connection opens, and by the control thread.
    open: Mutex<Vec<Weak<Link>>>,
}

/// What was seen of one Service port's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By `SRTT_BOUNDS_US`.
    pub srtt: [u64; SRTT_BUCKETS],
    pub srtt_us_sum: u64,
    pub retransmits: u64,
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Link {
    local: Option<SocketAddr>,
    port: Arc<PortLinks>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: it is closed, or about to be.
    socket: Option<RawFd>,
    last: TcpInfo,
    /// Retransmits that were counted.
    told: u32,
    /// Its round-trip time was counted.
    sampled: bool,
}

/// Its owner's part: the socket may be looked at until this is dropped. To be dropped before the socket.
#[derive(Debug)]
pub(super) struct Attached(Arc<Link>);

impl Links {
    /// How often connections are looked at.
    pub const SAMPLED: Duration = Duration::from_secs(5);

    pub(super) fn of(&self, port: &PortKey) -> Arc<PortLinks> {
        let mut ports = lock(&self.ports);
        if let Some(found) = ports.get(port) {
            return Arc::clone(found);
        }
        Arc::clone(ports.entry(port.clone()).or_default())
    }

    /// Looks at each connection that has sent something lately; to be called each [`Self::SAMPLED`].
    pub fn sample(&self) {
        let ports: Vec<_> = lock(&self.ports).values().cloned().collect();
        for port in ports {
            // Not under the lock: whoever opens a connection would wait for all of these.
            let open: Vec<_> = {
                let mut open = lock(&port.open);
                open.retain(|link| link.strong_count() > 0);
                open.iter().filter_map(Weak::upgrade).collect()
            };
            open.iter().for_each(|link| link.sample());
        }
    }

    /// What was seen so far, in no order.
    pub fn read(&self) -> Vec<(PortKey, Seen)> {
        lock(&self.ports).iter().map(|(key, port)| (key.clone(), port.read())).collect()
    }

    /// Forgets ports that nobody uses and `alive` does not know.
    pub fn sweep(&self, alive: impl Fn(&PortKey) -> bool) {
        lock(&self.ports).retain(|key, port| Arc::strong_count(port) > 1 || alive(key));
    }
}

impl PortLinks {
    /// From now on until what is returned is dropped.
    pub(super) fn attach(self: &Arc<Self>, socket: &TcpStream) -> Attached {
        let state = State { socket: Some(socket.as_raw_fd()), last: TcpInfo::default(), told: 0, sampled: false };
        let link = Arc::new(Link { local: socket.local_addr().ok(), port: Arc::clone(self), state: Mutex::new(state) });
        let mut open = lock(&self.open);
        if open.len() == open.capacity() {
            open.retain(|link| link.strong_count() > 0);
        }
        open.push(Arc::downgrade(&link));
        Attached(link)
    }

    fn observe(&self, srtt_us: u32) {
        if let Some(bucket) = self.srtt.get(srtt_bucket(srtt_us)) {
            bucket.fetch_add(1, Relaxed);
            self.srtt_us_sum.fetch_add(srtt_us.into(), Relaxed);
        }
    }

    fn read(&self) -> Seen {
        Seen {
            srtt: std::array::from_fn(|at| self.srtt[at].load(Relaxed)),
            srtt_us_sum: self.srtt_us_sum.load(Relaxed),
            retransmits: self.retransmits.load(Relaxed),
        }
    }
}

impl Link {
    /// The agent's end.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// What holds now, or held at the end.
    pub fn tcp(&self) -> TcpInfo {
        self.look(&mut lock(&self.state))
    }

    fn sample(&self) {
        let mut state = lock(&self.state);
        let seen = self.look(&mut state);
        if state.socket.is_some() && seen.silent < Links::SAMPLED {
            state.sampled = true;
            self.port.observe(seen.srtt_us);
        }
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        let seen = self.look(&mut state);
        if state.socket.take().is_some() && !state.sampled {
            self.port.observe(seen.srtt_us);
        }
    }

    /// Under the lock the socket stays open: its owner takes it away before it closes it.
    fn look(&self, state: &mut State) -> TcpInfo {
        if let Some(seen) = state.socket.and_then(net::tcp_info) {
            state.last = seen;
            let more = seen.retransmits.saturating_sub(std::mem::replace(&mut state.told, seen.retransmits));
            self.port.retransmits.fetch_add(more.into(), Relaxed);
        }
        state.last
    }
}

impl Attached {
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Numbers stay usable whatever panicked elsewhere.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
