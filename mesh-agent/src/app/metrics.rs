//! Metrics of the agent itself and of the kernel half, beside those of requests.

use crate::admin::view;
use crate::connect::Links;
use crate::costs::{Costs, Spent};
use crate::error::Flags;
use crate::kernel::{Counters, ServiceCounters};
use crate::snapshot::{PortKey, ServiceName, Snapshot};
use crate::telemetry::tap::Taps;
use crate::telemetry::trace::Traces;
use crate::telemetry::{AccessLog, Callee, External, Metrics, Moved, Of, Recorder, Who};
use crate::time::Nanos;
use anyhow::Result;
use mesh_common::Reason;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Services whose kernel statistics get series of their own, busiest first; the others are one sum, `overflow`.
const KERNEL_SERVICES: usize = 200;

/// Values the control thread sets and a scrape reads.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    generation: AtomicU64,
    diagnostics: [AtomicU64; 3],
    pods: [AtomicU64; 2],
}

/// Counts connections that the kernel placed itself among Istio's: by Service; whose they are the maps do not say.
#[derive(Debug)]
pub(super) struct Placed {
    recorder: Recorder,
    counters: Counters,
    /// What was counted already, and as what.
    told: FxHashMap<String, (ServiceCounters, Arc<Callee>)>,
}

impl Placed {
    pub(super) fn new(recorder: Recorder, counters: Counters) -> Self {
        Self { recorder, counters, told: FxHashMap::default() }
    }

    /// To be called before metrics are read.
    pub(super) fn count(&mut self, snapshot: &Snapshot) {
        for now in self.counters.services() {
            let Some(callee) = callee(snapshot, &now.service) else { continue };
            let (former, kept) = self.told.entry(now.service.clone()).or_insert_with(|| {
                let none = ServiceCounters { service: now.service.clone(), ..ServiceCounters::default() };
                (none, Arc::new(callee.clone()))
            });
            if **kept != callee {
                *kept = callee.into();
            }
            let since = |field: fn(&ServiceCounters) -> u64| field(&now).saturating_sub(field(former));
            let moved = Moved {
                opened: since(|s| s.opened),
                closed: since(|s| s.closed),
                // Istio's direction is the client's: what was sent went to it.
                sent: since(|s| s.bytes_received),
                received: since(|s| s.bytes_sent),
                flags: Flags::NONE,
            };
            self.recorder.series(None, kept, None, || None).moved(&moved);
            *former = now;
        }
        self.recorder.forget();
    }
}

/// `None`: the Service has gone, or is not compiled yet.
fn callee(snapshot: &Snapshot, name: &str) -> Option<Callee> {
    let (service, port) = name.rsplit_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    let key = PortKey::new(ServiceName::new(namespace, name), port.parse().ok()?);
    let (service, _) = snapshot.port(&key)?;
    Some(Callee::declared(&service.host, &service.name.name, &service.name.namespace))
}

/// What became of the access log's lines.
pub(super) fn access_log(metrics: &Metrics, log: &Arc<AccessLog>) -> Result<()> {
    let log = Arc::clone(log);
    metrics.register(External::new(
        "mesh_access_log_dropped_total",
        "Lines of the access log that were not written: the file was slower than the requests, or failed",
        "",
        move || vec![(String::new(), log.dropped())],
    )?)
}

/// Who looks at what passes.
pub(super) fn taps(metrics: &Metrics, taps: &Arc<Taps>) -> Result<()> {
    let taps = Arc::clone(taps);
    let read = move || vec![(String::new(), taps.count() as u64)];
    metrics.register(External::gauge("mesh_taps", "Open taps (mesh-agent tap)", "", read)?)
}

/// Pods whose costs get series of their own, dearest first; the others are one sum, `overflow`.
const PODS: usize = 250;

/// What the agent spends for each pod.
pub(super) fn costs(metrics: &Metrics, costs: &Arc<Costs>) -> Result<()> {
    type Field = fn(&Spent) -> f64;
    let families: [(&str, &str, bool, Field); 2] = [
        (
            "mesh_pod_cpu_seconds_total",
            "CPU time of worker threads for a pod's connections; without a pod: for the agent itself",
            false,
            |spent| spent.cpu().as_secs_f64(),
        ),
        (
            "mesh_pod_memory_bytes",
            "Held for a pod: its connections, and what readers that stall leave behind",
            true,
            |spent| spent.bytes() as f64,
        ),
    ];
    for (name, help, is_gauge, field) in families {
        let costs = Arc::clone(costs);
        let read = move || {
            let mut pods = costs.pods();
            pods.sort_by_cached_key(|spent| Reverse(spent.cpu()));
            let rest = pods.split_off(pods.len().min(PODS));
            let labels = |of: [&str; 3]| of.map(str::to_owned).to_vec();
            let mut rows: Vec<_> = pods
                .iter()
                .filter_map(|spent| {
                    let of = spent.workload()?;
                    Some((labels([&of.key.namespace, &of.key.name, &of.owner.name]), field(spent)))
                })
                .collect();
            rows.push((labels(["", "", ""]), field(costs.own())));
            if !rest.is_empty() {
                rows.push((labels(["overflow"; 3]), rest.iter().map(|spent| field(spent)).sum()));
            }
            rows
        };
        metrics.register(External::rows(name, help, &["namespace", "pod", "workload"], is_gauge, read)?)?;
    }
    Ok(())
}

/// What became of spans.
pub(super) fn traces(metrics: &Metrics, traces: &Arc<Traces>) -> Result<()> {
    let counts = Arc::clone(traces.counts());
    metrics.register(External::new(
        "mesh_trace_spans_total",
        "Spans of recorded requests: sent to the collector, or dropped because it was slower than the requests, or failed",
        "outcome",
        move || {
            let (sent, dropped) = (counts.sent.load(Relaxed), counts.dropped.load(Relaxed));
            vec![("sent".to_owned(), sent), ("dropped".to_owned(), dropped)]
        },
    )?)
}

/// Drops series of what the configuration no longer names.
pub(super) fn sweep(metrics: &Metrics, costs: &Costs, links: &Links, snapshot: &Snapshot) {
    costs.sweep(|pod| snapshot.workload(pod).is_some());
    links.sweep(|port| snapshot.port(port).is_some());
    let named = OnceCell::new();
    // Mostly nobody asks: every series is counted under.
    let named = || named.get_or_init(|| Named::of(snapshot));
    let alive = |who: &Who| {
        let named = named();
        let owner = |owner: &Option<(Arc<str>, Arc<str>)>| {
            owner.as_ref().is_none_or(|(namespace, name)| named.owners.contains(&(&**namespace, &**name)))
        };
        owner(&who.source) && owner(&who.destination) && named.hosts.contains(&*who.callee.host)
    };
    metrics.sweep(Nanos::now(), alive, |of| match of {
        Of::Route { service, .. } => service.split_once('/').is_none_or(|name| named().services.contains(&name)),
        Of::From(namespace, pod) | Of::To(namespace, pod) => named().pods.contains(&(&**namespace, &**pod)),
    });
}

struct Named<'a> {
    owners: FxHashSet<(&'a str, &'a str)>,
    hosts: FxHashSet<&'a str>,
    pods: FxHashSet<(&'a str, &'a str)>,
    services: FxHashSet<(&'a str, &'a str)>,
}

impl<'a> Named<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            owners: snapshot.workloads().map(|w| (&*w.key.namespace, &*w.owner.name)).collect(),
            hosts: snapshot.services().map(|service| &*service.host).collect(),
            pods: snapshot.workloads().map(|w| (&*w.key.namespace, &*w.key.name)).collect(),
            services: snapshot.services().map(|service| (&*service.name.namespace, &*service.name.name)).collect(),
        }
    }
}

impl Gauges {
    /// Makes the gauges and shows them in `metrics`.
    pub(super) fn new(metrics: &Metrics, workers: usize) -> Result<Arc<Self>> {
        let gauges = Arc::new(Self::default());
        let version = env!("CARGO_PKG_VERSION");
        metrics.register(External::constant(
            "istio_build",
            "The agent's version; always 1",
            &[("component", "proxy"), ("tag", version)],
        )?)?;
        metrics.register(External::gauge("mesh_workers", "Worker threads", "", move || {
            vec![(String::new(), workers as u64)]
        })?)?;
        let shown = Arc::clone(&gauges);
        metrics.register(External::gauge(
            "mesh_config_generation",
            "Configuration in force; grows by one with each published change",
            "",
            move || vec![(String::new(), shown.generation.load(Relaxed))],
        )?)?;
        let shown = Arc::clone(&gauges);
        metrics.register(External::gauge(
            "mesh_config_diagnostics",
            "Findings about the configuration in force",
            "severity",
            move || pairs(["error", "warning", "info"], &shown.diagnostics),
        )?)?;
        let shown = Arc::clone(&gauges);
        metrics.register(External::gauge(
            "mesh_pods",
            "Pods of this node, by whether they are in the mesh",
            "mesh",
            move || pairs(["in", "outside"], &shown.pods),
        )?)?;
        Ok(gauges)
    }

    pub(super) fn configured(&self, generation: u64, found: view::DiagnosticCounts) {
        self.generation.store(generation, Relaxed);
        store(&self.diagnostics, [found.errors, found.warnings, found.infos]);
    }

    pub(super) fn pods(&self, inside: usize, outside: usize) {
        store(&self.pods, [inside, outside]);
    }
}

/// Shows the kernel's counters in `metrics`.
pub(super) fn kernel(metrics: &Metrics, counters: &Counters) -> Result<()> {
    let events = counters.clone();
    metrics.register(External::new(
        "mesh_kernel_events_total",
        "How often the kernel programs ended with a reason",
        "reason",
        move || {
            let events = events.read().into_iter().filter(|(reason, _)| !is_bytes(*reason));
            events.map(|(reason, count)| (reason.label().to_owned(), count)).collect()
        },
    )?)?;
    for (name, reason) in [
        ("mesh_kernel_redirected_bytes_total", Reason::RedirectedBytes),
        ("mesh_kernel_passed_bytes_total", Reason::OverTcpBytes),
    ] {
        let counters = counters.clone();
        let read = move || vec![(String::new(), counters.get(reason))];
        metrics.register(External::new(name, reason.doc(), "", read)?)?;
    }
    let flows = counters.clone();
    metrics.register(External::gauge("mesh_kernel_flows", "Captured connections open now", "", move || {
        vec![(String::new(), flows.open_flows())]
    })?)?;
    services(metrics, counters)
}

/// Two of the counters count bytes: they are metrics of their own.
fn is_bytes(reason: Reason) -> bool {
    matches!(reason, Reason::RedirectedBytes | Reason::OverTcpBytes)
}

/// Connections that the kernel placed on an endpoint itself, by service.
fn services(metrics: &Metrics, counters: &Counters) -> Result<()> {
    use crate::kernel::ServiceCounters as S;
    type Field = fn(&S) -> u64;
    let families: [(&str, &str, Field); 4] = [
        ("mesh_kernel_connections_opened_total", "Connections the kernel placed itself", |s| s.opened),
        ("mesh_kernel_connections_closed_total", "Those of them that have ended", |s| s.closed),
        ("mesh_kernel_sent_bytes_total", "Bytes from pods on ended connections of these", |s| s.bytes_sent),
        ("mesh_kernel_received_bytes_total", "Bytes to pods on ended connections of these", |s| s.bytes_received),
    ];
    for (name, help, field) in families {
        let counters = counters.clone();
        let read = move || {
            let mut all = counters.services();
            all.sort_by(|a, b| b.opened.cmp(&a.opened).then_with(|| a.service.cmp(&b.service)));
            let rest = all.split_off(all.len().min(KERNEL_SERVICES));
            let mut rows: Vec<_> = all.iter().map(|s| (s.service.clone(), field(s))).collect();
            if !rest.is_empty() {
                rows.push(("overflow".to_owned(), rest.iter().map(field).sum()));
            }
            rows
        };
        metrics.register(External::new(name, help, "service", read)?)?;
    }
    Ok(())
}

fn pairs<const N: usize>(names: [&str; N], values: &[AtomicU64; N]) -> Vec<(String, u64)> {
    names.into_iter().zip(values).map(|(name, value)| (name.to_owned(), value.load(Relaxed))).collect()
}

fn store<const N: usize>(gauges: &[AtomicU64; N], values: [usize; N]) {
    for (gauge, value) in gauges.iter().zip(values) {
        gauge.store(value as u64, Relaxed);
    }
}
