//! Fills the admin views from the parts. Reads only; called on the control thread, one question at a time.

use super::pods::Pods;
use crate::addr::EndpointAddr;
use crate::admin::view;
use crate::balance::{EndpointRow, Policy};
use crate::config::{Diagnostic, Severity};
use crate::connections::{Connection, KernelFacts, Speaks};
use crate::kernel::{self, Kernel};
use crate::snapshot::{
    Endpoint, EndpointHealth, Enrolment, LbPolicy, Locality, PortKey, Protocol, Service, ServicePort, Snapshot,
    Workload,
};
use crate::time::Nanos;
use crate::worker::Workers;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Why every enrolled pod is outside when the kernel half is off.
pub(super) const NO_KERNEL: &str = "started with --no-kernel: nothing is captured";

pub(super) fn services(snapshot: &Snapshot, with_kernel: bool) -> Vec<view::Service> {
    let mut rows: Vec<_> = snapshot.services().map(|service| view_service(service, with_kernel)).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

pub(super) fn endpoints(snapshot: &Snapshot, workers: &Workers) -> Vec<view::Endpoint> {
    let states = workers.endpoints();
    let mut known: HashMap<(&PortKey, EndpointAddr), Vec<&EndpointRow>> = HashMap::new();
    for row in &states {
        for addr in std::iter::once(row.endpoint).chain(row.other) {
            known.entry((&row.key.port, addr)).or_default().push(row);
        }
    }
    let mut rows = Vec::new();
    for port in snapshot.services().flat_map(|service| &service.ports) {
        for endpoint in &port.endpoints.endpoints {
            let states = known.get(&(&port.key, endpoint.addr)).map_or(&[][..], Vec::as_slice);
            // None: no worker has used the port yet.
            let plain = states.iter().find(|row| row.key.subset.is_none()).copied();
            rows.push(view_endpoint(port, endpoint, plain));
            let subsets = states.iter().filter(|row| row.key.subset.is_some());
            rows.extend(subsets.map(|row| view_endpoint(port, endpoint, Some(row))));
        }
    }
    rows.sort_by(|a, b| (&a.service, &a.subset, a.addr).cmp(&(&b.service, &b.subset, b.addr)));
    rows
}

fn view_endpoint(port: &ServicePort, endpoint: &Endpoint, state: Option<&EndpointRow>) -> view::Endpoint {
    let Locality { region, zone, subzone } = &endpoint.locality;
    view::Endpoint {
        service: port.key.to_string(),
        subset: state.and_then(|state| state.key.subset.as_deref()).map(str::to_owned),
        addr: endpoint.addr.addr(),
        workload: endpoint.workload.as_ref().map(|workload| workload.key.to_string()),
        locality: format!("{region}/{zone}/{subzone}").trim_end_matches('/').to_owned(),
        weight: endpoint.weight,
        health: word(&endpoint.health),
        avoided: state.is_some_and(|state| state.avoided_ms > 0),
        ejected: state.is_some_and(|state| state.ejected),
        ejected_ms: state.map_or(0, |state| state.ejected_ms),
        ejections: state.map_or(0, |state| state.ejections),
        active: state.map_or(0, |state| state.active.into()),
        requests: state.map_or(0, |state| state.ended),
        failures: state.map_or(0, |state| state.blamed),
        latency_ms: state.map(|state| state.ewma_ms).filter(|ms| *ms > 0.0),
    }
}

/// `pods`: `None` without the kernel half.
pub(super) fn workloads(snapshot: &Snapshot, pods: Option<&Pods>) -> Vec<view::Workload> {
    let mut rows: Vec<_> = snapshot
        .workloads()
        .map(|workload| {
            let (mesh, reason) = match standing(workload, pods) {
                Standing::In => ("enrolled", String::new()),
                Standing::Elsewhere => ("elsewhere", String::new()),
                Standing::Outside(reason) => ("outside", reason),
            };
            view::Workload {
                name: workload.key.to_string(),
                owner: format!("{}/{}", workload.owner.kind, workload.owner.name),
                node: workload.node.to_string(),
                service_account: workload.service_account.to_string(),
                addresses: workload.ips.iter().map(ToString::to_string).collect(),
                mesh: mesh.into(),
                reason,
            }
        })
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

pub(super) fn pods(snapshot: &Snapshot, node: &str, pods: Option<&Pods>) -> view::Pods {
    let mut all = view::Pods::default();
    for workload in snapshot.workloads() {
        match standing(workload, pods) {
            Standing::In => all.in_mesh.push(workload.key.to_string()),
            Standing::Elsewhere => all.elsewhere += 1,
            // Pods of other nodes that are outside are those nodes' to report.
            Standing::Outside(_) if !workload.node.is_empty() && *workload.node != *node => {}
            Standing::Outside(reason) => {
                all.outside.push(view::OutsidePod { pod: workload.key.to_string(), reason });
            }
        }
    }
    all.in_mesh.sort();
    all.outside.sort_by(|a, b| a.pod.cmp(&b.pod));
    all
}

pub(crate) fn diagnostics<'a>(found: impl Iterator<Item = &'a Diagnostic>) -> Vec<view::Diagnostic> {
    let mut found: Vec<&Diagnostic> = found.collect();
    found.sort();
    let rows = found.into_iter().map(|found| view::Diagnostic {
        severity: found.severity.to_string(),
        code: found.code.to_string(),
        file: match (&found.file, found.line) {
            (Some(file), Some(line)) => format!("{}:{line}", file.display()),
            (Some(file), None) => file.display().to_string(),
            (None, _) => String::new(),
        },
        object: found.object.as_ref().map(ToString::to_string).unwrap_or_default(),
        field: found.field.clone(),
        message: found.message.clone(),
        fix: found.fix.clone(),
    });
    rows.collect()
}

pub(super) fn counts<'a>(found: impl Iterator<Item = &'a Diagnostic>) -> view::DiagnosticCounts {
    let mut counts = view::DiagnosticCounts::default();
    for diagnostic in found {
        match diagnostic.severity {
            Severity::Error => counts.errors += 1,
            Severity::Warning => counts.warnings += 1,
            Severity::Info => counts.infos += 1,
        }
    }
    counts
}

pub(super) fn no_kernel() -> view::KernelStatus {
    let sk_msg = view::Switch { on: false, reason: "no kernel programs".into() };
    view::KernelStatus { tier: "none".into(), reason: NO_KERNEL.into(), sk_msg, ..view::KernelStatus::default() }
}

pub(super) fn kernel_status(status: &kernel::Status, sk_msg: view::Switch) -> view::KernelStatus {
    let missing = status.hooks.iter().filter_map(|hook| match &hook.state {
        kernel::HookState::Missing { why } => Some(format!("{}: {why}", hook.name)),
        _ => None,
    });
    let reason = match status.tier {
        kernel::Tier::Full => "capture and redirection".to_owned(),
        kernel::Tier::NoRedirect => format!("capture over plain TCP ({})", sk_msg.reason),
    };
    view::KernelStatus {
        tier: word(&status.tier),
        reason: std::iter::once(reason).chain(missing).collect::<Vec<_>>().join("; "),
        abi: status.abi,
        sk_msg,
        heartbeat_age_ms: status.beat_age_ms,
        other_programs: status
            .other_programs
            .iter()
            .map(|other| view::OtherProgram { hook: other.hook.into(), id: other.id, name: other.name.clone() })
            .collect(),
    }
}

/// # Errors
/// When the maps cannot be read.
pub(super) fn kernel(kernel: &Kernel, sk_msg: view::Switch) -> Result<view::Kernel, kernel::KernelError> {
    let status = kernel.status();
    let mut maps: BTreeMap<&'static str, Vec<view::MapRow>> = BTreeMap::new();
    for row in kernel.dump()?.rows {
        maps.entry(row.map).or_default().push(view::MapRow { key: row.key, value: row.value });
    }
    let capacities = kernel.config().capacities;
    for empty in ["PODS", "SERVICES", "PREFIXES", "ENDPOINTS", "FLOWS"] {
        maps.entry(empty).or_default();
    }
    let maps = maps.into_iter().filter(|(name, _)| *name != "COUNTERS").map(|(name, rows)| view::Map {
        name: name.into(),
        entries: rows.len(),
        capacity: match name {
            "PODS" => Some(capacities.pods),
            "SERVICES" => Some(capacities.services),
            "PREFIXES" => Some(capacities.prefixes),
            "ENDPOINTS" => Some(capacities.endpoints),
            "FLOWS" => Some(capacities.flows),
            "SERVICE_STATS" => Some(capacities.stats),
            _ => None,
        },
        rows,
    });
    let counters = kernel.counters();
    Ok(view::Kernel {
        adoption: match &status.adoption {
            kernel::Adoption::Replaced { why } => format!("replaced ({why})"),
            kernel::Adoption::Fresh => "fresh".into(),
            kernel::Adoption::Adopted => "adopted".into(),
            kernel::Adoption::Upgraded => "upgraded".into(),
        },
        pods_cgroup: status.pods_cgroup.clone(),
        pin_dir: status.pin_dir.clone(),
        hooks: status.hooks.iter().map(hook).collect(),
        maps: maps.collect(),
        counters: counters
            .read()
            .into_iter()
            .map(|(reason, count)| view::Counter { reason: reason.label().into(), count })
            .collect(),
        services: counters
            .services()
            .into_iter()
            .map(|s| view::KernelService {
                service: s.service,
                opened: s.opened,
                closed: s.closed,
                bytes_sent: s.bytes_sent,
                bytes_received: s.bytes_received,
                retransmits: s.retransmits,
                srtt_us: s.srtt_us,
            })
            .collect(),
        status: kernel_status(&status, sk_msg),
    })
}

pub(super) fn connections(workers: &Workers) -> view::Connections {
    let by_worker = workers.connections();
    let active_requests = workers.endpoints().iter().map(|row| u64::from(row.active)).sum();
    view::Connections { open: by_worker.iter().sum(), by_worker, active_requests }
}

/// Connections shown one by one: an answer that a person can read and a terminal can hold.
const MOST_CONNECTIONS: usize = 1000;

pub(super) fn connection_list(workers: &Workers) -> view::ConnectionList {
    let now = Nanos::now();
    let row = |(connection, kernel): (&Arc<Connection>, Option<KernelFacts>)| view::Connection {
        id: connection.id,
        source: connection.source.as_deref().map(str::to_owned),
        client: connection.client.addr(),
        destination: connection.destination.to_string(),
        protocol: match connection.speaks() {
            Speaks::Unknown => "unknown",
            Speaks::Http1 => "http1",
            Speaks::Http2 => "http2",
            Speaks::Opaque => "opaque",
        }
        .into(),
        age_seconds: now.since(connection.opened).as_secs(),
        requests: connection.requests(),
        streams: connection.streams(),
        received_bytes: connection.received(),
        sent_bytes: connection.sent(),
        verdict: kernel.map(|kernel| kernel.verdict.label().to_owned()),
        redirected_bytes: kernel.and_then(|kernel| kernel.redirected_bytes),
    };
    let oldest = workers.oldest_connections(MOST_CONNECTIONS);
    view::ConnectionList {
        counts: connections(workers),
        connections: oldest.iter().map(|c| row((c, c.kernel()))).collect(),
    }
}

/// Everything in force, in full; services and workloads in order of name.
pub(super) fn snapshot(snapshot: &Snapshot) -> impl Serialize + use<> {
    #[derive(Serialize)]
    struct Whole {
        generation: u64,
        services: Vec<Arc<Service>>,
        workloads: Vec<Arc<Workload>>,
    }
    let mut services: Vec<_> = snapshot.services().cloned().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut workloads: Vec<_> = snapshot.workloads().cloned().collect();
    workloads.sort_by(|a, b| a.key.cmp(&b.key));
    Whole { generation: snapshot.generation, services, workloads }
}

enum Standing {
    In,
    Elsewhere,
    Outside(String),
}

fn standing(workload: &Workload, pods: Option<&Pods>) -> Standing {
    match &workload.enrolment {
        Enrolment::Elsewhere => Standing::Elsewhere,
        Enrolment::Outside { reason } => Standing::Outside(reason.to_string()),
        Enrolment::Enrolled { .. } => match pods {
            None => Standing::Outside(NO_KERNEL.into()),
            Some(pods) => pods.trouble(&workload.key).map_or(Standing::In, Standing::Outside),
        },
    }
}

fn hook(hook: &kernel::HookStatus) -> view::Hook {
    let (state, why) = match &hook.state {
        kernel::HookState::Attached => ("attached", ""),
        kernel::HookState::Adopted => ("adopted", ""),
        kernel::HookState::Swapped => ("swapped", ""),
        kernel::HookState::Covered => ("covered", "the hook on the cgroup above does its work"),
        kernel::HookState::Missing { why } => ("missing", why.as_str()),
    };
    view::Hook { name: hook.name.into(), state: state.into(), why: why.into() }
}

fn view_service(service: &Service, with_kernel: bool) -> view::Service {
    view::Service {
        name: service.name.to_string(),
        host: service.host.to_string(),
        addresses: service.vips.iter().map(ToString::to_string).collect(),
        headless: service.headless,
        ports: service.ports.iter().map(|port| view_port(port, with_kernel)).collect(),
    }
}

fn view_port(port: &ServicePort, with_kernel: bool) -> view::Port {
    let count = |health| port.endpoints.endpoints.iter().filter(|endpoint| endpoint.health == health).count();
    let by_kernel = with_kernel && port.protocol.is_opaque();
    view::Port {
        port: port.port,
        name: port.name.to_string(),
        protocol: protocol(port.protocol).into(),
        // The kernel draws endpoints by weight, whatever the policy says.
        policy: if by_kernel { "random".into() } else { policy(port.lb) },
        ready: count(EndpointHealth::Ready),
        draining: count(EndpointHealth::Draining),
        not_ready: count(EndpointHealth::NotReady),
        balanced_by: if by_kernel { "kernel".into() } else { "agent".into() },
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc-web",
        Protocol::Tls => "tls",
        Protocol::Tcp => "tcp",
        Protocol::Detect => "detect",
    }
}

fn policy(policy: LbPolicy) -> String {
    let word = word(&Policy::from(policy));
    if policy == LbPolicy::Default { format!("{word} (default)") } else { word }
}

/// The word that a unit-like enum serialises to.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
