//! Handles on the counters of one (source, service, endpoint), found once and kept.

use super::{Metrics, Record};
use crate::addr::EndpointAddr;
use crate::error::Flag;
use crate::snapshot::Workload;
use http::StatusCode;
use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const UNKNOWN: &str = "unknown";
const OVERFLOW: &str = "overflow";

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
    labels: [Arc<str>; 4],
    /// Few: an endpoint answers with a handful of codes.
    codes: RefCell<SmallVec<[(Code, IntCounter); 4]>>,
    duration: Histogram,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
}

type Code = (Option<StatusCode>, Option<u8>, Flag);

/// Counters of opaque connections from one source to one endpoint of one service.
#[derive(Debug)]
pub struct TcpSeries {
    pub opened: IntCounterHandle,
    pub closed: IntCounterHandle,
    /// Bytes to the client.
    pub sent: IntCounterHandle,
    /// Bytes from the client.
    pub received: IntCounterHandle,
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
        let labels = self.labels(source, service, endpoint);
        let values = labels.each_ref().map(|label| &**label);
        let metrics = &self.metrics;
        let series = Rc::new(Series {
            metrics: Arc::clone(metrics),
            codes: RefCell::default(),
            duration: metrics.duration.with_label_values(&values),
            request_bytes: metrics.request_bytes.with_label_values(&values),
            response_bytes: metrics.response_bytes.with_label_values(&values),
            labels,
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
        let labels = self.labels(source, service, endpoint);
        let values = labels.each_ref().map(|label| &**label);
        let metrics = &self.metrics;
        let series = Rc::new(TcpSeries {
            opened: IntCounterHandle(metrics.tcp_opened.with_label_values(&values)),
            closed: IntCounterHandle(metrics.tcp_closed.with_label_values(&values)),
            sent: IntCounterHandle(metrics.tcp_sent.with_label_values(&values)),
            received: IntCounterHandle(metrics.tcp_received.with_label_values(&values)),
        });
        let held = (source.cloned(), Arc::clone(service));
        self.tcp.borrow_mut().insert(key, (held, Rc::clone(&series)));
        series
    }

    fn labels(
        &self,
        source: Option<&Arc<Workload>>,
        service: &Arc<str>,
        endpoint: Option<EndpointAddr>,
    ) -> [Arc<str>; 4] {
        let endpoint: Arc<str> = endpoint.map_or_else(|| UNKNOWN.into(), |addr| addr.to_string().into());
        let (namespace, workload) = source.map_or_else(
            || (UNKNOWN.into(), UNKNOWN.into()),
            |w| (Arc::clone(&w.key.namespace), Arc::clone(&w.owner.name)),
        );
        let labels = [namespace, workload, Arc::clone(service), endpoint];
        if self.metrics.admit(&labels.each_ref().map(|label| &**label)) {
            return labels;
        }
        std::array::from_fn(|_| OVERFLOW.into())
    }
}

impl Series {
    /// Body bytes sent to the endpoint.
    pub fn sent(&self, bytes: u64) {
        self.request_bytes.inc_by(bytes);
    }

    pub(super) fn finish(&self, record: &Record) {
        let code = (record.code, record.grpc_status, record.flag);
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

    fn counter(&self, (status, grpc, flag): Code) -> IntCounter {
        let [namespace, workload, service, endpoint] = self.labels.each_ref().map(|label| &**label);
        let grpc = grpc.map(|status| status.to_string()).unwrap_or_default();
        let status = status.as_ref().map_or("0", StatusCode::as_str);
        let labels = [namespace, workload, service, endpoint, status, &grpc, flag.as_str()];
        if self.metrics.admit(&labels) {
            self.metrics.requests.with_label_values(&labels)
        } else {
            self.metrics.requests.with_label_values(&[OVERFLOW; 7])
        }
    }
}

fn key(source: Option<&Arc<Workload>>, service: &Arc<str>, endpoint: Option<EndpointAddr>) -> Key {
    (source.map_or(0, |w| Arc::as_ptr(w).addr()), Arc::as_ptr(service).cast::<u8>().addr(), endpoint)
}
