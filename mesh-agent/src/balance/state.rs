//! What is learnt about one endpoint while the agent runs.

use super::outlier::{Detector, Monitor};
use crate::addr::EndpointAddr;
use crate::snapshot::ClusterKey;
use crate::time::Nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Latency before the first answer: an unknown endpoint must be tried, so it starts as a fast one.
const FIRST_GUESS: Duration = Duration::from_millis(1);
/// Time constant of the moving average: a sample counts e⁻¹ as much after 10 s (finagle's and tower's default).
const DECAY: Duration = Duration::from_secs(10);
/// First avoidance after a failed connection; doubles with each further one.
const AVOID_FIRST: Duration = Duration::from_millis(250);
const AVOID_LONGEST: Duration = Duration::from_secs(30);

/// Run-time state of one endpoint of one port. All atomics are independent hints: no order between them matters.
#[derive(Debug)]
pub struct EndpointState {
    pub key: ClusterKey,
    /// Its identity: the first of its addresses.
    pub addr: EndpointAddr,
    /// A pod's address of the other family (IPv6 where `addr` is IPv4): one pod is one endpoint.
    pub other: Option<EndpointAddr>,
    /// Where slow start begins.
    pub since: Nanos,
    /// Whether `other` is dialled.
    by_other: AtomicBool,
    active: AtomicU32,
    /// Attempts that ended, and those of them for which it is to blame.
    ended: AtomicU64,
    blamed: AtomicU64,
    /// Moving average of the response time, nanoseconds, as `f64` bits.
    ewma: AtomicU64,
    ewma_at: AtomicU64,
    /// Connect failures since the last success.
    failures: AtomicU32,
    avoid_until: AtomicU64,
    pub(super) monitor: Monitor,
}

impl EndpointState {
    pub fn new(key: ClusterKey, addr: EndpointAddr, other: Option<EndpointAddr>, since: Nanos) -> Self {
        Self {
            key,
            addr,
            other,
            since,
            by_other: AtomicBool::new(false),
            active: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            blamed: AtomicU64::new(0),
            ewma: AtomicU64::new(as_f64(FIRST_GUESS).to_bits()),
            ewma_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            avoid_until: AtomicU64::new(0),
            monitor: Monitor::default(),
        }
    }

    /// The address to dial: the one that did not fail last.
    pub fn dialled(&self) -> EndpointAddr {
        match self.other {
            Some(other) if self.by_other.load(Relaxed) => other,
            _ => self.addr,
        }
    }

    /// An attempt ended. `blamed`: the endpoint failed.
    pub fn count(&self, blamed: bool) {
        self.ended.fetch_add(1, Relaxed);
        if blamed {
            self.blamed.fetch_add(1, Relaxed);
        }
    }

    /// The attempt that ends now, and is counted as nobody's fault, came to nothing for want of an answer.
    pub(super) fn count_late(&self) {
        self.blamed.fetch_add(1, Relaxed);
    }

    /// Attempts that ended, and those of them for which the endpoint is to blame.
    pub fn totals(&self) -> (u64, u64) {
        (self.ended.load(Relaxed), self.blamed.load(Relaxed))
    }

    /// Requests in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Smoothed response time.
    pub fn ewma(&self) -> Duration {
        Duration::from_nanos(f64::from_bits(self.ewma.load(Relaxed)) as u64)
    }

    /// As [`Self::ewma`]; `None` while it is a guess.
    pub fn latency(&self) -> Option<Duration> {
        (self.ewma_at.load(Relaxed) != 0).then(|| self.ewma())
    }

    /// Connect failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Until when the endpoint is passed over as long as others are there.
    pub fn avoid_until(&self) -> Nanos {
        Nanos(self.avoid_until.load(Relaxed))
    }

    pub fn is_avoided(&self, now: Nanos) -> bool {
        self.avoid_until() > now
    }

    /// Whether forgetting it would undo an ejection or an avoidance, as long as the cluster is not looked at.
    pub(super) fn is_in_trouble(&self, now: Nanos) -> bool {
        self.is_avoided(now) || self.monitor.until().is_some_and(|until| until > now)
    }

    /// Left out by outlier detection.
    pub fn is_ejected(&self) -> bool {
        self.monitor.is_ejected()
    }

    /// How much longer an ejection lasts at least: it ends with the first round after that. `None`: not ejected.
    pub fn ejected_for(&self, now: Nanos) -> Option<Duration> {
        self.monitor.until().map(|until| until.since(now))
    }

    /// Expected cost of one more request: average latency × (requests in flight × `scale` + 1), Finagle's peak EWMA.
    /// `scale`: the mean weight ÷ the endpoint's own.
    ///
    /// An idle endpoint's average decays towards zero, so that one slow answer does not banish it for ever.
    pub(super) fn peak_ewma_cost(&self, scale: f64, now: Nanos) -> f64 {
        let idle = now.since(Nanos(self.ewma_at.load(Relaxed)));
        let decayed = f64::from_bits(self.ewma.load(Relaxed)) * (-as_f64(idle) / as_f64(DECAY)).exp();
        decayed.max(1.0) * (f64::from(self.active()) * scale + 1.0)
    }

    /// Counts a request in flight until the guard is dropped.
    pub(super) fn start(self: &Arc<Self>, detector: Option<Arc<Detector>>, now: Nanos) -> ActiveRequest {
        self.active.fetch_add(1, Relaxed);
        ActiveRequest { state: Arc::clone(self), detector, started: now }
    }

    /// A response time. A sample above the average replaces it at once (the "peak"), one below moves it by
    /// `1 − e^(−elapsed/10 s)`: after 1 s of silence a sample of 2 ms pulls 10 ms to 9.24 ms.
    pub fn observe(&self, latency: Duration, now: Nanos) {
        let elapsed = now.since(Nanos(self.ewma_at.swap(now.0, Relaxed)));
        let sample = as_f64(latency);
        let former = f64::from_bits(self.ewma.load(Relaxed));
        let next = if sample > former {
            sample
        } else {
            let keep = (-as_f64(elapsed) / as_f64(DECAY)).exp();
            former * keep + sample * (1.0 - keep)
        };
        // Two workers may race and one sample be lost: it is an average of thousands.
        self.ewma.store(next.to_bits(), Relaxed);
        self.failures_reset();
    }

    /// A response time that nobody waited for the end of: it can only make the average worse.
    pub(super) fn at_least(&self, latency: Duration) {
        if latency > self.ewma() {
            self.ewma.store(as_f64(latency).to_bits(), Relaxed);
        }
    }

    /// A connection could not be made: pass the endpoint over for 250 ms, 500 ms, … 30 s, and dial its other address the
    /// next time. Failures that were under way when the first one was noticed count as one.
    pub fn connect_failed(&self, now: Nanos) {
        if self.is_avoided(now) {
            return;
        }
        if self.other.is_some() {
            self.by_other.fetch_xor(true, Relaxed);
        }
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        let avoid = AVOID_FIRST.saturating_mul(1 << failures).min(AVOID_LONGEST);
        self.avoid_until.store(now.plus(avoid).0, Relaxed);
    }

    /// A connection was made.
    pub fn connected(&self) {
        self.failures_reset();
    }

    fn failures_reset(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.avoid_until.store(0, Relaxed);
        }
    }
}

/// A request (or opaque connection) in flight.
#[derive(Debug)]
pub struct ActiveRequest {
    state: Arc<EndpointState>,
    detector: Option<Arc<Detector>>,
    started: Nanos,
}

/// How an attempt ended, as far as the endpoint is concerned. What is nobody's fault, or ours (overflow, no socket,
/// a client that left), is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// An opaque connection was made.
    Connected,
    /// The head of a response; `grpc_status` only where it stands in the head (trailers are ignored, SEMANTICS §5).
    Response {
        status: u16,
        grpc_status: Option<u8>,
    },
    ConnectFailure,
    /// The connection or stream was reset before a response.
    Reset,
    /// No response in time: of the try or of the whole request.
    Timeout,
}

impl ActiveRequest {
    pub fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }

    /// Tells health and speed of the endpoint; once per attempt, when its response begins or cannot come any more.
    pub fn finished(&self, ended: Ended, now: Nanos) {
        match ended {
            Ended::Connected => self.state.connected(),
            // A fast failure must not make an endpoint look good.
            Ended::Response { status: 500.., .. } | Ended::Response { grpc_status: Some(1..), .. } => {
                self.state.connected();
            }
            // What a stream does after its head says nothing about its speed.
            Ended::Response { .. } => self.state.observe(now.since(self.started), now),
            Ended::ConnectFailure => self.state.connect_failed(now),
            Ended::Reset | Ended::Timeout => {}
        }
        if let Some(detector) = &self.detector {
            detector.report(&self.state, ended, now);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Relaxed);
    }
}

fn as_f64(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{PortKey, ServiceName};

    fn state() -> Arc<EndpointState> {
        let addr = EndpointAddr::new(([10, 0, 0, 1], 80).into());
        Arc::new(EndpointState::new(PortKey::new(ServiceName::new("a", "b"), 80).into(), addr, None, Nanos(0)))
    }

    #[test]
    fn example_of_the_average() {
        let state = state();
        let at = Nanos(1_000_000_000);
        state.observe(Duration::from_millis(10), at);
        state.observe(Duration::from_millis(2), at.plus(Duration::from_secs(1)));
        let millis = state.ewma().as_secs_f64() * 1e3;
        assert!((millis - 9.238).abs() < 0.01, "{millis}");
    }

    #[test]
    fn avoidance_doubles_and_ends_with_a_success() {
        let state = state();
        let now = Nanos(1);
        state.connect_failed(now);
        assert_eq!(state.avoid_until(), now.plus(Duration::from_millis(250)));
        state.connect_failed(now);
        assert_eq!(state.failures(), 1, "one event");
        let later = now.plus(Duration::from_millis(250));
        state.connect_failed(later);
        assert_eq!(state.avoid_until(), later.plus(Duration::from_millis(500)));
        let mut now = later;
        for _ in 0..40 {
            now = state.avoid_until();
            state.connect_failed(now);
        }
        assert_eq!(state.avoid_until(), now.plus(AVOID_LONGEST));
        assert!(state.is_avoided(now));
        state.connected();
        assert!(!state.is_avoided(now));
        assert_eq!(state.failures(), 0);
    }

    #[test]
    fn the_address_that_failed_is_not_dialled_next() {
        let (v4, v6) = ("10.0.0.1:80".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
        let (v4, v6) = (EndpointAddr::new(v4), EndpointAddr::new(v6));
        let state = EndpointState::new(state().key.clone(), v4, Some(v6), Nanos(0));
        assert_eq!(state.dialled(), v4);
        let now = Nanos(1);
        state.connect_failed(now);
        state.connect_failed(now);
        assert_eq!(state.dialled(), v6, "two failures at once are one");
        state.connected();
        assert_eq!(state.dialled(), v6, "what works stays");
        state.connect_failed(now);
        assert_eq!(state.dialled(), v4);
    }

    #[test]
    fn active_requests_are_counted_by_guards() {
        let state = state();
        let (a, b) = (state.start(None, Nanos(1)), state.start(None, Nanos(1)));
        assert_eq!(state.active(), 2);
        drop((a, b));
        assert_eq!(state.active(), 0);
    }
}
