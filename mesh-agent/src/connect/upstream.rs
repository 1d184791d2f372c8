//! How the connections of one cluster are made and limited.

use super::link::PortLinks;
use super::socket::Stream;
use super::tls::Tls;
use super::{Carries, Dialer, Ends, Limits, Links, Peer, Permit, Socket, Wire, proxy_protocol};
use crate::addr::EndpointAddr;
use crate::error::ConnectError;
use crate::settings::Settings;
use crate::snapshot::ClusterKey;
use crate::snapshot::policy::TrafficPolicy;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// One cluster under one policy: connections of different policies never mix.
#[derive(Debug)]
pub struct Upstream {
    /// Stands for the cluster and policy in the keys of pools.
    pub(super) id: u64,
    pub(super) policy: Arc<TrafficPolicy>,
    peer: Peer,
    tls: Option<Tls>,
    /// The agent's, with what the policy says instead.
    pub(super) settings: Arc<Settings>,
    sources: Mutex<FxHashMap<u64, Weak<Limits>>>,
    /// In flight, of all sources.
    hedges: AtomicU32,
    /// Its connections, and those of the Service port's other upstreams.
    links: Arc<PortLinks>,
}

/// A hedge in flight, counted until this is dropped.
#[derive(Debug)]
pub struct HedgePermit(Arc<Upstream>);

impl Drop for HedgePermit {
    fn drop(&mut self) {
        self.0.hedges.fetch_sub(1, Relaxed);
    }
}

/// Where a connection goes, for what, and for whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) to: EndpointAddr,
    pub(super) carries: Carries,
    /// What is spoken; `None`: bytes.
    pub(super) wire: Option<Wire>,
    pub(super) ends: Option<Ends>,
}

/// All upstreams that somebody holds, shared by the workers. Locked when a configuration is new to a worker, and when a
/// pool is made.
#[derive(Debug)]
pub struct Upstreams {
    settings: Arc<Settings>,
    links: Arc<Links>,
    known: Mutex<FxHashMap<ClusterKey, Vec<Weak<Upstream>>>>,
    next: AtomicU64,
}

impl Upstreams {
    pub fn new(settings: Arc<Settings>, links: Arc<Links>) -> Self {
        Self { settings, links, known: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// The upstream of a cluster and policy: the one that exists, if one does. To be kept beside the cluster, as long as
    /// it is used.
    pub fn upstream(&self, key: &ClusterKey, policy: &Arc<TrafficPolicy>, peer: &Peer) -> Arc<Upstream> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = known.entry(key.clone()).or_default();
        of_key.retain(|upstream| upstream.strong_count() > 0);
        if let Some(found) = of_key.iter().filter_map(Weak::upgrade).find(|upstream| upstream.is_of(policy, peer)) {
            return found;
        }
        let upstream = Arc::new(Upstream {
            id: self.next.fetch_add(1, Relaxed),
            policy: Arc::clone(policy),
            tls: Tls::new(policy.tls.as_ref(), peer),
            peer: peer.clone(),
            settings: settings(&self.settings, policy),
            sources: Mutex::default(),
            hedges: AtomicU32::new(0),
            links: self.links.of(&key.port),
        });
        of_key.push(Arc::downgrade(&upstream));
        // Clusters come and go with the configuration: those that are gone leave no names behind.
        if known.len() >= known.capacity() {
            known.retain(|_, of_key| of_key.iter().any(|upstream| upstream.strong_count() > 0));
        }
        upstream
    }
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::new(Arc::default(), Arc::default())
    }
}

impl Upstream {
    /// Whether it makes connections as the policy wants them, to those whom it should be.
    pub fn is_of(&self, policy: &Arc<TrafficPolicy>, peer: &Peer) -> bool {
        let (own, other) = (&*self.policy, &**policy);
        self.peer == *peer && (Arc::ptr_eq(&self.policy, policy) || makes_alike(own, other))
    }

    /// The agent's settings, with what the policy says instead: `idle` is the policy's for opaque connections,
    /// `max_connection_age` its longest duration of a connection.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Hedges in flight.
    pub fn hedges(&self) -> u64 {
        u64::from(self.hedges.load(Relaxed))
    }

    /// Counts one more.
    pub fn hedge(self: &Arc<Self>) -> HedgePermit {
        self.hedges.fetch_add(1, Relaxed);
        HedgePermit(Arc::clone(self))
    }

    /// What one source may do; `None`: everything.
    pub(super) fn limits(&self, source: u64) -> Option<Arc<Limits>> {
        let limits = Limits::of(&self.policy)?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = sources.get(&source).and_then(Weak::upgrade) {
            return Some(limits);
        }
        sources.retain(|_, limits| limits.strong_count() > 0);
        sources.insert(source, Arc::downgrade(&limits));
        Some(limits)
    }

    /// Whether a connection may serve another client's connection too.
    pub(super) fn shares(&self) -> bool {
        self.policy.proxy_protocol.is_none()
    }

    /// A connected socket that keeps `permit` as long as it lives.
    pub(super) async fn dial(
        &self,
        dialer: &Dialer,
        target: Target,
        limit: Duration,
        permit: Option<Permit>,
    ) -> Result<Socket, ConnectError> {
        let preamble = self.policy.proxy_protocol.zip(target.ends);
        // The kernel's shortcut is for what is HTTP/2 from the first byte on.
        let carries = if preamble.is_some() || self.is_secured() { Carries::Any } else { target.carries };
        let mut stream = dialer.connect(target.to, carries, limit, &self.settings).await?;
        if let Some((version, ends)) = preamble {
            // At most 107 bytes into an empty send buffer.
            let header = proxy_protocol::header(version, ends);
            stream.write_all(&header).await.map_err(|error| ConnectError::Io(error.kind()))?;
        }
        if let Some(keepalive) = &self.policy.pool.tcp_keepalive {
            super::dial::keep_alive(&stream, keepalive);
        }
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            // Envoy's `connect_timeout` "includes the TLS handshake", too.
            Some(tls) => {
                let handshake = tokio::time::timeout(limit, tls.connect(stream, target.wire));
                Box::pin(handshake).await.map_err(|_| ConnectError::Timeout(limit))??
            }
        };
        let attached = self.links.attach(stream.socket());
        Ok(Socket::new(attached, stream, permit))
    }

    /// TLS is spoken to its endpoints.
    pub fn is_secured(&self) -> bool {
        self.tls.is_some()
    }
}

fn makes_alike(own: &TrafficPolicy, other: &TrafficPolicy) -> bool {
    own.pool == other.pool
        && own.retry_budget == other.retry_budget
        && own.tls == other.tls
        && own.proxy_protocol == other.proxy_protocol
}

fn settings(agent: &Arc<Settings>, policy: &TrafficPolicy) -> Arc<Settings> {
    let pool = &policy.pool;
    let times = [pool.connect_timeout, pool.idle_timeout, pool.tcp_idle_timeout, pool.max_connection_duration];
    if times.iter().all(Option::is_none) {
        return Arc::clone(agent);
    }
    Arc::new(Settings {
        connect_timeout: pool.connect_timeout.unwrap_or(agent.connect_timeout),
        http1_idle: pool.idle_timeout.unwrap_or(agent.http1_idle),
        http2_idle: pool.idle_timeout.unwrap_or(agent.http2_idle),
        idle: pool.tcp_idle_timeout.unwrap_or(agent.idle),
        max_connection_age: pool.max_connection_duration.or(agent.max_connection_age),
        ..(**agent).clone()
    })
}
