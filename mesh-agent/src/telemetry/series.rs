//! Handles on the series of one caller, Service and endpoint, found once and kept.

use super::attributes::Attributes;
use super::cells::{Counter, Histogram};
use super::labels::{Codes, Reporter, Who, coded, peers};
use super::rules::Rules;
use super::store::{Family, Labels};
use super::tally::{Of, Tally};
use super::{Callee, LogRule, Metrics};
use crate::addr::EndpointAddr;
use crate::error::{Flag, Flags};
use crate::snapshot::route::Route;
use crate::snapshot::{Enrolment, Snapshot, Workload};
use arc_swap::ArcSwap;
use http::StatusCode;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Handles one worker keeps; the network names Services, so their number is bounded.
const KEPT: usize = 8192;

/// Ways in which requests end that one handle keeps.
const CODES: usize = 64;

/// One worker's way to its series.
#[derive(Debug)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    worker: usize,
    known: RefCell<FxHashMap<Key, Rc<Series>>>,
    /// Whose Telemetry objects hold.
    snapshot: Arc<ArcSwap<Snapshot>>,
    logging: RefCell<Logging>,
    /// Some expression may ask for requests' heads; `None`: not looked yet.
    heads: Cell<Option<bool>>,
}

/// Addresses of the workload and the callee, which the series keeps from being used again.
type Key = (usize, usize, Option<EndpointAddr>);

/// Who asks whom, and where that is counted.
#[derive(Debug)]
pub struct Series {
    metrics: Arc<Metrics>,
    worker: usize,
    /// `None`: an explicit listener's client.
    pub caller: Option<Arc<Workload>>,
    pub callee: Arc<Callee>,
    /// The workload behind the endpoint, where one was chosen and is known.
    pub endpoint: Option<Arc<Workload>>,
    source: Side,
    /// Where this agent acts for the endpoint too: a pod of its node, in the mesh.
    destination: Option<Side>,
    /// The caller's and the endpoint's pods.
    pods: OnceCell<SmallVec<[Arc<Tally>; 2]>>,
    /// Each route is kept so that its address is its own.
    routes: RefCell<Routes>,
}

/// One reporter's series.
#[derive(Debug)]
struct Side {
    reporter: Reporter,
    /// What Telemetry objects say; `None`: nothing.
    rules: Option<Rules>,
    peers: OnceCell<Labels>,
    /// Few: an endpoint answers with a handful of codes.
    http: Found<(Code, Tags), Http>,
    messages: Found<Tags, [Counter; 2]>,
    tcp: Found<Flags, Tcp>,
}

/// By the address of the caller, which is kept so that it stays its own; `None`: it is no pod.
type Logging = FxHashMap<usize, (Option<Arc<Workload>>, LogRule)>;
/// What expressions made of a request.
type Tags = Vec<String>;
/// `None`: what no route took.
type Routes = SmallVec<[(Option<Arc<Route>>, Arc<Tally>); 2]>;
type Found<K, V> = RefCell<SmallVec<[(K, Rc<V>); 2]>>;

/// gRPC or not, HTTP status, gRPC status, flags.
type Code = (bool, Option<StatusCode>, Option<u8>, Flags);

#[derive(Debug)]
struct Http {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

#[derive(Debug)]
struct Tcp {
    opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
}

/// What metrics say of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    pub(super) code: Code,
    pub(super) duration: Duration,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// gRPC messages of the request and of the response.
    pub(super) messages: [u64; 2],
    /// For an exemplar.
    pub(super) trace: Option<u128>,
}

/// What metrics say of connections since they last did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub opened: u64,
    pub closed: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// Bytes from the client.
    pub received: u64,
    pub flags: Flags,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        let worker = metrics.recorder();
        Self {
            metrics,
            worker,
            known: RefCell::default(),
            snapshot,
            logging: RefCell::default(),
            heads: Cell::new(None),
        }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Forgets all handles; those in use are found again. Call it when the configuration changed.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
        self.logging.borrow_mut().clear();
        self.heads.set(None);
    }

    /// Whether requests' heads must be kept for expressions.
    pub fn keeps_heads(&self) -> bool {
        self.heads.get().unwrap_or_else(|| {
            let keeps = self.snapshot.load().has_expressions();
            self.heads.set(Some(keeps));
            keeps
        })
    }

    /// What Telemetry objects say of the caller's log.
    pub fn log_rule(&self, caller: Option<&Arc<Workload>>) -> LogRule {
        let mut known = self.logging.borrow_mut();
        let made = || (caller.cloned(), LogRule::of(&self.snapshot.load(), caller.map(|caller| &**caller)));
        let (_, rule) = known.entry(caller.map_or(0, |caller| Arc::as_ptr(caller).addr())).or_insert_with(made);
        rule.clone()
    }

    /// `endpoint`: where it goes, if anywhere, and what is known to be there.
    pub fn series<'a>(
        &self,
        caller: Option<&Arc<Workload>>,
        callee: &Arc<Callee>,
        endpoint: Option<EndpointAddr>,
        workload: impl FnOnce() -> Option<&'a Arc<Workload>>,
    ) -> Rc<Series> {
        let key = (caller.map_or(0, |w| Arc::as_ptr(w).addr()), Arc::as_ptr(callee).addr(), endpoint);
        if let Some(series) = self.known.borrow().get(&key) {
            return Rc::clone(series);
        }
        let workload = endpoint.and_then(|_| workload().cloned());
        let ours = workload.as_ref().is_some_and(|w| matches!(w.enrolment, Enrolment::Enrolled { .. }));
        let snapshot = self.snapshot.load();
        let side = |reporter, of: Option<&Arc<Workload>>| {
            Side::new(reporter, Rules::of(&snapshot, of.map(|of| &**of), reporter))
        };
        let series = Rc::new(Series {
            source: side(Reporter::Source, caller),
            destination: ours.then(|| side(Reporter::Destination, workload.as_ref())),
            metrics: Arc::clone(&self.metrics),
            worker: self.worker,
            caller: caller.cloned(),
            callee: Arc::clone(callee),
            endpoint: workload,
            pods: OnceCell::new(),
            routes: RefCell::default(),
        });
        let mut known = self.known.borrow_mut();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, Rc::clone(&series));
        series
    }
}

impl Series {
    /// A request ended, as the caller's side saw it.
    pub(super) fn count(&self, request: &Request, attributes: Option<&Attributes<'_>>) {
        self.source.count(self, request, attributes);
    }

    /// As [`Self::count`], by route and by pod.
    pub(super) fn tally(&self, route: Option<&Arc<Route>>, request: &Request) {
        let micros = u64::try_from(request.duration.as_micros()).unwrap_or(u64::MAX);
        let (bucket, failed) = (Tally::bucket(micros), request.is_failure());
        self.pods.get_or_init(|| self.tallied_pods()).iter().for_each(|pod| pod.count(bucket, failed));
        let mut routes = self.routes.borrow_mut();
        let same = |known: &Option<Arc<Route>>| match (known, route) {
            (Some(known), Some(route)) => Arc::ptr_eq(known, route),
            (None, None) => true,
            _ => false,
        };
        if let Some((_, known)) = routes.iter().find(|(known, _)| same(known)) {
            return known.count(bucket, failed);
        }
        let service = match self.callee.undeclared {
            true => Arc::clone(&self.callee.name),
            false => format!("{}/{}", self.callee.namespace, self.callee.name).into(),
        };
        let of = Of::Route { service, route: route.map(|route| title(route)).unwrap_or_default() };
        let found = self.metrics.tally().of(self.worker, &of);
        found.count(bucket, failed);
        // As with codes: a configuration that changes all the time must not fill memory.
        if routes.len() >= CODES {
            routes.clear();
        }
        routes.push((route.cloned(), found));
    }

    fn tallied_pods(&self) -> SmallVec<[Arc<Tally>; 2]> {
        let key = |of: &Arc<Workload>| (Arc::clone(&of.key.namespace), Arc::clone(&of.key.name));
        let from = self.caller.as_ref().map(key).map(|(namespace, name)| Of::From(namespace, name));
        let to = self.endpoint.as_ref().map(key).map(|(namespace, name)| Of::To(namespace, name));
        from.iter().chain(&to).map(|of| self.metrics.tally().of(self.worker, of)).collect()
    }

    /// Whether this agent acts for the endpoint too.
    pub(super) fn is_served(&self) -> bool {
        self.destination.is_some()
    }

    /// As [`Self::count`], as the endpoint's side saw it.
    pub(super) fn count_served(&self, request: &Request, attributes: Option<&Attributes<'_>>) {
        if let Some(side) = &self.destination {
            side.count(self, request, attributes);
        }
    }

    /// What happened to an opaque connection since the last call; counted on both sides.
    pub fn moved(&self, moved: &Moved) {
        self.source.moved(self, moved);
        if let Some(side) = &self.destination {
            side.moved(self, moved);
        }
    }
}

/// A route's name, or where it stands: `VirtualService shop/web spec.http[1]`.
fn title(route: &Route) -> Arc<str> {
    match &route.rule.object {
        _ if !route.name.is_empty() => Arc::clone(&route.name),
        Some(object) => format!("{object} {}", route.rule.field).into(),
        None => Arc::clone(&route.rule.field),
    }
}

impl Request {
    /// As the graph has it: 5xx, no answer although the client waited, gRPC's INTERNAL, UNAVAILABLE and DATA_LOSS.
    fn is_failure(&self) -> bool {
        let (_, code, grpc, flags) = self.code;
        let answer = code.map_or(flags != Flag::DC.into(), |code| code.is_server_error());
        answer || matches!(grpc, Some(13..=15))
    }
}

impl Side {
    fn new(reporter: Reporter, rules: Option<Rules>) -> Self {
        Self {
            reporter,
            rules,
            peers: OnceCell::new(),
            http: RefCell::default(),
            messages: RefCell::default(),
            tcp: RefCell::default(),
        }
    }

    fn count(&self, of: &Series, request: &Request, attributes: Option<&Attributes<'_>>) {
        let tags = self.rules.as_ref().filter(|rules| rules.has_expressions());
        let tags = tags.map(|rules| rules.values(attributes)).unwrap_or_default();
        let http = self.http(of, request.code, &tags);
        http.requests.add(1);
        let micros = u64::try_from(request.duration.as_micros()).unwrap_or(u64::MAX);
        http.duration.observe(micros, request.trace);
        http.request_bytes.observe(request.request_bytes.saturating_mul(1000), None);
        http.response_bytes.observe(request.response_bytes.saturating_mul(1000), None);
        if request.code.0 {
            let messages = found(&self.messages, &tags, || {
                let labels = self.peers(of);
                let families = [Family::RequestMessages, Family::ResponseMessages];
                families.map(|family| self.counter(of, family, labels, &tags))
            });
            messages.iter().zip(request.messages).for_each(|(counter, count)| counter.add(count));
        }
    }

    fn moved(&self, of: &Series, moved: &Moved) {
        let tcp = self.tcp(of, moved.flags);
        tcp.opened.add(moved.opened);
        tcp.closed.add(moved.closed);
        tcp.sent.add(moved.sent);
        tcp.received.add(moved.received);
    }

    fn http(&self, of: &Series, code: Code, tags: &Tags) -> Rc<Http> {
        let mut known = self.http.borrow_mut();
        if let Some((_, http)) = known.iter().find(|((known, of), _)| *known == code && of == tags) {
            return Rc::clone(http);
        }
        let (grpc, status, grpc_status, flags) = code;
        // Empty for what is not gRPC.
        let response = (status.map_or(0, |status| status.as_u16()), grpc_status.filter(|_| grpc));
        let protocol = if grpc { "grpc" } else { "http" };
        let labels = self.coded(of, &Codes { protocol, response: Some(response), flags: &flags });
        let histogram = |family| match self.labels(family, &labels, tags) {
            Some(labels) => of.metrics.store().histogram(family, of.worker, self.reporter, &labels),
            None => Histogram(Arc::default()),
        };
        let http = Rc::new(Http {
            requests: self.counter(of, Family::Requests, &labels, tags),
            duration: histogram(Family::Duration),
            request_bytes: histogram(Family::RequestBytes),
            response_bytes: histogram(Family::ResponseBytes),
        });
        keep(&mut known, (code, tags.clone()), &http);
        http
    }

    fn tcp(&self, of: &Series, flags: Flags) -> Rc<Tcp> {
        found(&self.tcp, &flags, || {
            let labels = self.coded(of, &Codes { protocol: "tcp", response: None, flags: &flags });
            let tags = self.rules.as_ref().map(|rules| rules.values(None)).unwrap_or_default();
            let counter = |family| self.counter(of, family, &labels, &tags);
            Tcp {
                opened: counter(Family::TcpOpened),
                closed: counter(Family::TcpClosed),
                sent: counter(Family::TcpSent),
                received: counter(Family::TcpReceived),
            }
        })
    }

    fn counter(&self, of: &Series, family: Family, labels: &Labels, tags: &[String]) -> Counter {
        match self.labels(family, labels, tags) {
            Some(labels) => of.metrics.store().counter(family, of.worker, self.reporter, &labels),
            // Counted where nobody looks.
            None => Counter(Arc::default()),
        }
    }

    /// As Telemetry objects want them; `None`: the family is switched off.
    fn labels(&self, family: Family, labels: &Labels, tags: &[String]) -> Option<Labels> {
        let Some(rules) = &self.rules else { return Some(labels.clone()) };
        Some(Labels { text: rules.labels(family, &labels.text, tags)?, who: Arc::clone(&labels.who) })
    }

    fn peers(&self, of: &Series) -> &Labels {
        self.peers.get_or_init(|| {
            let (caller, endpoint) = (of.caller.as_deref(), of.endpoint.as_deref());
            Labels {
                text: peers(self.reporter, caller, endpoint, &of.callee).into(),
                who: Arc::new(Who::new(caller, endpoint, &of.callee)),
            }
        })
    }

    fn coded(&self, of: &Series, codes: &Codes<'_>) -> Labels {
        let peers = self.peers(of);
        Labels { text: coded(&peers.text, self.reporter, codes).into(), who: Arc::clone(&peers.who) }
    }
}

fn found<K: PartialEq + Clone, V>(of: &Found<K, V>, key: &K, make: impl FnOnce() -> V) -> Rc<V> {
    let mut known = of.borrow_mut();
    if let Some((_, value)) = known.iter().find(|(known, _)| known == key) {
        return Rc::clone(value);
    }
    let value = Rc::new(make());
    keep(&mut known, key.clone(), &value);
    value
}

/// Servers choose codes: what they cannot do is fill memory with them.
fn keep<K, V>(known: &mut SmallVec<[(K, Rc<V>); 2]>, key: K, value: &Rc<V>) {
    if known.len() >= CODES {
        known.clear();
    }
    known.push((key, Rc::clone(value)));
}
