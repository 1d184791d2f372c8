//! Handles on the counters of one (source, service, endpoint), found once and kept.

use super::peers::Peer;
use super::{Metrics, Record};
use crate::addr::EndpointAddr;
use crate::error::Flags;
use crate::snapshot::Workload;
use http::StatusCode;
use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The endpoint of a request that never had one, the source of an explicit listener.
const UNKNOWN: &str = "unknown";

/// One worker's way to its series.
#[derive(Debug)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    http: RefCell<FxHashMap<Key, (Held, Rc<Series>)>>,
    tcp: RefCell<FxHashMap<Key, (Held, Rc<TcpSeries>)>>,
}

/// Addresses of the workload and the service name, which `Held` keeps from being used again.
type Key = (usize, usize, Option<EndpointAddr>);
type Held = (Option<Arc<Workload>>, Arc<str>);

/// Counters of requests from one source to one endpoint of one service.
#[derive(Debug)]
pub struct Series {
    metrics: Arc<Metrics>,
    peer: Arc<Peer>,
    /// Few: an endpoint answers with a handful of codes.
    codes: RefCell<SmallVec<[(Code, IntCounter); 4]>>,
    duration: Histogram,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
}

type Code = (Option<StatusCode>, Option<u8>, Flags);

/// Counters of opaque connections from one source to one endpoint of one service.
#[derive(Debug)]
pub struct TcpSeries {
    pub opened: IntCounterHandle,
    pub closed: IntCounterHandle,
    /// Bytes to the client.
    pub sent: IntCounterHandle,
    /// Bytes from the client.
    pub received: IntCounterHandle,
    _peer: Arc<Peer>,
}

/// A counter others may only add to.
#[derive(Debug)]
pub struct IntCounterHandle(IntCounter);

impl IntCounterHandle {
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, http: RefCell::default(), tcp: RefCell::default() }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Forgets handles, so that those of removed endpoints go; called when the configuration changes.
    pub fn forget(&self) {
        self.http.borrow_mut().clear();
        self.tcp.borrow_mut().clear();
    }

    /// `endpoint`: `None` for a request that never had one.
    pub fn series(
        &self,
        source: Option<&Arc<Workload>>,
        service: &Arc<str>,
        endpoint: Option<EndpointAddr>,
    ) -> Rc<Series> {
        let key = key(source, service, endpoint);
        if let Some((_, series)) = self.http.borrow().get(&key) {
            return Rc::clone(series);
        }
        let peer = self.peer(source, service, endpoint);
        let values = peer.values();
        let metrics = &self.metrics;
        let series = Rc::new(Series {
            metrics: Arc::clone(metrics),
            codes: RefCell::default(),
            duration: metrics.duration.with_label_values(&values),
            request_bytes: metrics.request_bytes.with_label_values(&values),
            response_bytes: metrics.response_bytes.with_label_values(&values),
            peer,
        });
        let held = (source.cloned(), Arc::clone(service));
        self.http.borrow_mut().insert(key, (held, Rc::clone(&series)));
        series
    }

    pub fn tcp_series(
        &self,
        source: Option<&Arc<Workload>>,
        service: &Arc<str>,
        endpoint: Option<EndpointAddr>,
    ) -> Rc<TcpSeries> {
        let key = key(source, service, endpoint);
        if let Some((_, series)) = self.tcp.borrow().get(&key) {
            return Rc::clone(series);
        }
        let peer = self.peer(source, service, endpoint);
        let values = peer.values();
        let metrics = &self.metrics;
        let series = Rc::new(TcpSeries {
            opened: IntCounterHandle(metrics.tcp_opened.with_label_values(&values)),
            closed: IntCounterHandle(metrics.tcp_closed.with_label_values(&values)),
            sent: IntCounterHandle(metrics.tcp_sent.with_label_values(&values)),
            received: IntCounterHandle(metrics.tcp_received.with_label_values(&values)),
            _peer: peer,
        });
        let held = (source.cloned(), Arc::clone(service));
        self.tcp.borrow_mut().insert(key, (held, Rc::clone(&series)));
        series
    }

    fn peer(&self, source: Option<&Arc<Workload>>, service: &Arc<str>, endpoint: Option<EndpointAddr>) -> Arc<Peer> {
        let endpoint: Arc<str> = endpoint.map_or_else(|| UNKNOWN.into(), |addr| addr.to_string().into());
        let (namespace, workload) = source.map_or_else(
            || (UNKNOWN.into(), UNKNOWN.into()),
            |w| (Arc::clone(&w.key.namespace), Arc::clone(&w.owner.name)),
        );
        self.metrics.peer([namespace, workload, Arc::clone(service), endpoint])
    }
}

impl Series {
    /// Body bytes sent to the endpoint.
    pub fn sent(&self, bytes: u64) {
        self.request_bytes.inc_by(bytes);
    }

    pub(super) fn finish(&self, record: &Record) {
        let code = (record.code, record.grpc_status, record.flags);
        let mut codes = self.codes.borrow_mut();
        match codes.iter().find(|(known, _)| *known == code) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = self.counter(code);
                counter.inc();
                codes.push((code, counter));
            }
        }
        self.duration.observe(record.elapsed().as_secs_f64() * 1e3);
        if record.received > 0 {
            self.response_bytes.inc_by(record.received);
        }
    }

    fn counter(&self, (status, grpc, flags): Code) -> IntCounter {
        let grpc = grpc.map(|status| status.to_string()).unwrap_or_default();
        let status = status.as_ref().map_or("0", StatusCode::as_str).to_owned();
        self.metrics.requests(&self.peer, &[status, grpc, flags.to_string()])
    }
}

fn key(source: Option<&Arc<Workload>>, service: &Arc<str>, endpoint: Option<EndpointAddr>) -> Key {
    (source.map_or(0, |w| Arc::as_ptr(w).addr()), Arc::as_ptr(service).cast::<u8>().addr(), endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;
    use std::time::Duration;

    #[test]
    fn series_of_an_endpoint_that_has_gone_go_once_nobody_counts() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let recorder = Recorder::new(Arc::clone(&metrics));
        let service: Arc<str> = "db.shop".into();
        let addr = |last| Some(EndpointAddr::new(([10, 0, 0, last], 80).into()));
        let running = Record::new(recorder.series(None, &service, addr(1)), Nanos::now());
        for last in [1, 2] {
            drop(Record::new(recorder.series(None, &service, addr(last)), Nanos::now()));
            recorder.tcp_series(None, &service, addr(last)).opened.add(1);
        }
        recorder.forget();
        // A day later the configuration names none of them.
        let (now, later) = (Nanos::now(), Nanos::now().plus(Duration::from_secs(86_400)));
        for at in [now, later] {
            metrics.sweep(at, |_, _| false);
        }
        let text = metrics.gather_text();
        assert!(!text.contains("10.0.0.2"), "{text}");
        assert!(
            text.contains(r#"requests_total{code="0",destination_service="db.shop",endpoint="10.0.0.1:80""#),
            "{text}"
        );
        drop(running);
        for at in [later, later.plus(Duration::from_secs(86_400))] {
            metrics.sweep(at, |_, _| false);
        }
        let text = metrics.gather_text();
        assert!(!text.contains("db.shop"), "{text}");
    }
}
