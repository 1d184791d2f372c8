//! Traces: where a request stands in one, and the spans that this agent adds to it.
//!
//! Place in the path: the exchange asks [`Tracer::begin`] for each request and gets a [`Trace`] for those that are
//! recorded, few as a rule; it lives in the request's `Record` and ends with it. Its spans go through a bounded queue to
//! one thread for each collector. Invariant: a request that is not recorded costs its id and a branch; nothing here waits
//! for a collector: spans that find the queue full are dropped and counted.
//!
//! Identifiers are chained as sidecars chain them: app → client span → server span → what the app calls next. The client
//! span is one for all attempts; each attempt at a pod that this agent acts for has a server span of its own.

mod context;
mod export;
mod live;
mod otlp;
mod post;
pub mod request_id;
mod sampling;
mod span;
mod tags;
mod zipkin;

pub use context::{Decision, Ids, Incoming, SpanId, TraceId, extract, inject};
pub use export::Counts;
pub use live::{Caller, Trace};
pub use post::of_url;
pub use span::{Kind, Span, Tag};

use crate::snapshot::tracing::{Collector, Tracing};
use crate::snapshot::{Enrolment, Snapshot, Workload, WorkloadKey};
use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use context::{Place, TRACESTATE, inject_dropped};
use export::Exporter;
use fastrand::Rng;
use http::HeaderMap;
use request_id::Reason;
use rustc_hash::FxHashMap;
use sampling::{Asked, Carried};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The traces of the agent: which there are and where they go may change while it runs.
#[derive(Debug)]
pub struct Traces {
    on: AtomicBool,
    active: Arc<ArcSwapOption<Active>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    counts: Arc<Counts>,
}

/// One worker's way to them.
#[derive(Debug)]
pub struct Tracer {
    traces: Arc<Traces>,
    active: RefCell<Seen>,
}

/// What is in force, as a worker saw it last.
type Seen = Cache<Arc<ArcSwapOption<Active>>, Option<Arc<Active>>>;

/// What is in force.
#[derive(Debug)]
struct Active {
    /// Of the whole mesh, and of clients that are no pods.
    default: Option<Scope>,
    /// Workloads of this node for which nearer Telemetry objects say something else; `None`: no spans.
    others: FxHashMap<WorkloadKey, Option<Scope>>,
    /// `cluster.local`
    domain: Arc<str>,
}

/// What holds for some workloads.
#[derive(Clone, Debug)]
struct Scope {
    settings: Arc<Tracing>,
    exporter: Arc<Exporter>,
}

impl Traces {
    /// `snapshot`: where collectors that are Services are looked up.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { on: AtomicBool::new(false), active: Arc::default(), snapshot, counts: Arc::default() }
    }

    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Puts a configuration in force; `forced`: the command line's collector, whatever the configuration says.
    pub fn set(&self, snapshot: &Snapshot, forced: Option<&Arc<Collector>>) {
        let former = self.active.load_full();
        let former = former.iter().flat_map(|active| active.default.iter().chain(active.others.values().flatten()));
        let mut exporters: Vec<Arc<Exporter>> = former.map(|scope| Arc::clone(&scope.exporter)).collect();
        let mut scope = |settings: Arc<Tracing>| {
            let collector = forced.or(settings.reports_to())?;
            let exporter = self.exporter(collector, &mut exporters)?;
            Some(Scope { settings, exporter })
        };
        let common: Arc<Tracing> = snapshot.tracing(None).into();
        let default = scope(Arc::clone(&common));
        let mut others = FxHashMap::default();
        if snapshot.has_telemetries() {
            let ours = |workload: &&Arc<Workload>| matches!(workload.enrolment, Enrolment::Enrolled { .. });
            for workload in snapshot.workloads().filter(ours) {
                let settings = snapshot.tracing(Some(workload));
                if settings != *common {
                    others.insert(workload.key.clone(), scope(settings.into()));
                }
            }
        }
        let on = default.is_some() || others.values().any(Option::is_some);
        let active = Active { default, others, domain: Arc::clone(&snapshot.mesh().cluster_domain) };
        self.active.store(on.then(|| active.into()));
        self.on.store(on, Relaxed);
    }

    /// The one that is there, or a new one.
    fn exporter(&self, collector: &Arc<Collector>, known: &mut Vec<Arc<Exporter>>) -> Option<Arc<Exporter>> {
        if let Some(exporter) = known.iter().find(|exporter| exporter.collector == *collector) {
            return Some(Arc::clone(exporter));
        }
        match Exporter::start(Arc::clone(collector), Arc::clone(&self.snapshot), Arc::clone(&self.counts)) {
            Ok(exporter) => {
                let exporter = Arc::new(exporter);
                known.push(Arc::clone(&exporter));
                Some(exporter)
            }
            Err(error) => {
                tracing::error!(%error, collector = %collector.name, "no thread for spans: none are sent");
                None
            }
        }
    }
}

impl Tracer {
    pub fn new(traces: Arc<Traces>) -> Self {
        let active = Cache::new(Arc::clone(&traces.active)).into();
        Self { traces, active }
    }

    /// Lets go of what is no longer in force; called once a second.
    pub fn sweep(&self) {
        self.active.borrow_mut().load();
    }

    /// Gives a request its id and decides whether it is recorded; the next hop is told so in its headers.
    pub fn begin(&self, headers: &mut HeaderMap, caller: Caller<'_>, rng: &mut Rng) -> Option<Box<Trace>> {
        let carried = Carried::of(headers);
        let fresh = (!carried.id).then(|| rng.u128(..));
        let mut seen = self.active.borrow_mut();
        let active = if self.traces.on.load(Relaxed) { seen.load().as_deref() } else { None };
        let Some((active, Scope { settings, exporter })) = active.and_then(|a| Some((a, a.of(caller.workload)?)))
        else {
            fresh.into_iter().for_each(|random| request_id::give(headers, random, Reason::None));
            return None;
        };
        let native = exporter.collector.formats;
        let incoming = if carried.context { extract(headers, native.w3c && !native.b3) } else { Incoming::default() };
        let asked = Asked { headers, carried, fresh, parent: incoming.decision, trusted: !caller.outside };
        let (decision, reason) = asked.decide(settings.rate, settings.draw_by_id, || rng.u32(..));
        match (fresh, reason) {
            (Some(random), reason) => request_id::give(headers, random, reason.unwrap_or(Reason::None)),
            (None, Some(reason)) => request_id::set_reason(headers, reason),
            (None, None) => {}
        }
        let formats = native.and(incoming.formats);
        if !decision.is_recorded() {
            if incoming.decision.is_none() {
                inject_dropped(headers, formats, || incoming.ids.unwrap_or_else(|| new_ids(rng)));
            }
            return None;
        }
        let trace = incoming.ids.map_or_else(|| new_ids(rng).trace, |ids| ids.trace);
        let ids = Ids { trace, span: new_ids(rng).span };
        let parent = incoming.ids.map(|ids| ids.span);
        // It belongs to the context that it came with (W3C Trace Context §3.3).
        let continued = incoming.formats.w3c && parent.is_some();
        if !continued {
            headers.remove(TRACESTATE);
        }
        inject(headers, ids, parent, decision, formats);
        let (exporter, place) = (Arc::clone(exporter), Place { ids, parent, decision, formats });
        Some(Box::new(Trace::new(exporter, settings, &active.domain, place, headers, caller)))
    }
}

impl Active {
    fn of(&self, workload: Option<&Arc<Workload>>) -> Option<&Scope> {
        let own = workload.filter(|_| !self.others.is_empty()).and_then(|workload| self.others.get(&workload.key));
        own.map_or(self.default.as_ref(), Option::as_ref)
    }
}

/// Of a trace and span that begin here.
fn new_ids(rng: &mut Rng) -> Ids {
    // Zero means none, and is drawn once in 2^64.
    let (trace, span) = (TraceId::new(rng.u128(..)), SpanId::new(rng.u64(..)));
    Ids { trace: trace.unwrap_or(TraceId::MIN), span: span.unwrap_or(SpanId::MIN) }
}
