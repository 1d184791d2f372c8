//! ServiceEntry → compiled Services, one for each host (SEMANTICS §8 "ServiceEntry").

use super::endpoints::port_number;
use super::names::{fqdn, visibility};
use super::protocol;
use super::workload::not_an_address;
use crate::addr::EndpointAddr;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::service_entry::{Port, Spec, WorkloadEntrySpec};
use crate::config::resource::{Pod, Resource};
use crate::snapshot::route::Visibility;
use crate::snapshot::{
    Endpoint, EndpointHealth, EndpointSet, Enrolment, LbPolicy, Locality, OutsideReason, Owner, PortKey, Resolution,
    Service, ServiceName, ServicePort, Workload, WorkloadKey,
};
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Candidates for an address of each host that has none: enough for thousands of them (see [`auto_addresses`]).
const CANDIDATES: u64 = 4;

/// A workload that a ServiceEntry's `workloadSelector` selects.
pub(super) enum Selected<'a> {
    Pod(&'a Pod, Option<Arc<Workload>>),
    Entry(&'a Resource, &'a WorkloadEntrySpec),
}

pub(super) struct Input<'a> {
    pub(super) spec: &'a Spec,
    pub(super) name: ServiceName,
    /// Those it owns.
    pub(super) vips: Vec<IpAddr>,
    pub(super) selected: Vec<Selected<'a>>,
    /// Answers of DNS by name.
    pub(super) resolved: &'a dyn Fn(&str) -> Vec<IpAddr>,
    pub(super) export: &'a Visibility,
    pub(super) former: Option<&'a Service>,
}

/// The Services of an entry: hosts that can be looked up, under the entry's namespace.
pub(super) fn names(r: &Resource, spec: &Spec, domain: &str) -> Vec<ServiceName> {
    let mut names: Vec<ServiceName> = Vec::new();
    for host in spec.hosts.iter().filter(|host| is_host(host)) {
        let host = fqdn(host, &r.key.namespace, domain);
        let name = ServiceName { namespace: Arc::clone(&r.key.namespace), name: host };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

pub(super) fn is_host(host: &str) -> bool {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    !rest.is_empty() && !rest.contains(['*', '/', ' ', ':'])
}

/// Addresses written in the object or its status (where Istio's controller puts allocated ones).
pub(super) fn addresses(spec: &Spec, found: &mut Vec<Diagnostic>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (i, text) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        let single = text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(text);
        match single.parse::<IpAddr>() {
            Ok(ip) if !addresses.contains(&ip.to_canonical()) => addresses.push(ip.to_canonical()),
            Ok(_) => {}
            Err(_) if text.parse::<ipnet::IpNet>().is_ok() => {
                let message = format!("{text}: prefixes are not captured; only its hosts are known by name");
                found.push(Diagnostic::warning(Code::NotSupported, message).field(field).fix("list single addresses"));
            }
            Err(_) => found.push(not_an_address(field, text)),
        }
    }
    addresses
}

/// Addresses of 240.240.0.0/16 that a host without one may get: the first that no older host has claimed. Which they
/// are depends on the name alone, so every node comes to the same answer.
pub(super) fn auto_addresses(name: &ServiceName, spec: &Spec) -> Vec<IpAddr> {
    let wanted = spec.addresses.is_empty() && !name.name.starts_with('*') && resolution(spec) != Resolution::None;
    let address = |n: u64| {
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(name.namespace.as_bytes());
        hasher.write_u8(b'/');
        hasher.write(name.name.as_bytes());
        hasher.write_u64(n);
        // Not the network's first and last address.
        let host = (hasher.finish() >> 16) % 65_534 + 1;
        IpAddr::V4(Ipv4Addr::from_bits(0xf0f0_0000 | u32::try_from(host).unwrap_or(1)))
    };
    if wanted { (0..CANDIDATES).map(address).collect() } else { Vec::new() }
}

pub(super) fn resolution(spec: &Spec) -> Resolution {
    match &*spec.resolution {
        "STATIC" => Resolution::Static,
        "DNS" => Resolution::Dns,
        "DNS_ROUND_ROBIN" => Resolution::DnsRoundRobin,
        "DYNAMIC_DNS" => Resolution::DynamicDns,
        _ => Resolution::None,
    }
}

/// Compiles one host of an entry.
pub(super) fn compile(input: Input<'_>, found: &mut Vec<Diagnostic>) -> Service {
    let spec = input.spec;
    let host = Arc::clone(&input.name.name);
    advice(spec, &host, found);
    let mut ports: Vec<Arc<ServicePort>> = Vec::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let Some(number) = port_number(port.number) else {
            let message = format!("{} is not a port number; the port is left out", port.number);
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message).field(format!("{at}.number"));
            found.push(diagnostic.fix("write a number from 1 to 65535"));
            continue;
        };
        if port.protocol.eq_ignore_ascii_case("UDP") {
            continue;
        }
        if ports.iter().any(|p| p.port == number) {
            let message = format!("port {number} is declared twice; the first one counts");
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message).field(format!("{at}.number"));
            found.push(diagnostic.fix("remove one, or give it another number"));
            continue;
        }
        let key = PortKey::new(input.name.clone(), number);
        let former = input.former.and_then(|s| s.ports.iter().find(|p| p.key == key));
        let set = EndpointSet { endpoints: endpoints(&input, port, number, found) };
        let endpoints = match former {
            Some(former) if *former.endpoints == set => Arc::clone(&former.endpoints),
            _ => Arc::new(set),
        };
        let protocol = protocol::declared(&port.protocol, &port.name, number).unwrap_or_else(|| {
            let message =
                format!("protocol {:?} is not one we know; the first bytes of connections decide", &*port.protocol);
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message).field(format!("{at}.protocol"));
            found.push(diagnostic.fix("write HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS"));
            crate::snapshot::Protocol::Detect
        });
        let new =
            ServicePort { port: number, key, name: Arc::clone(&port.name), protocol, lb: LbPolicy::Default, endpoints };
        ports.push(match former {
            Some(former) if **former == new => Arc::clone(former),
            _ => Arc::new(new),
        });
    }
    Service {
        vips: input.vips,
        ports,
        export: visibility(&spec.export_to, input.export),
        resolution: resolution(spec),
        by_host: spec.addresses.is_empty(),
        external: &*spec.location != "MESH_INTERNAL",
        subject_alt_names: spec.subject_alt_names.clone(),
        ..Service::new(input.name, &host)
    }
}

fn advice(spec: &Spec, host: &str, found: &mut Vec<Diagnostic>) {
    let mut error = |field: &str, message: String, fix: &str| {
        found.push(Diagnostic::error(Code::SchemaValidationError, message).field(field).fix(fix));
    };
    if !matches!(&*spec.resolution, "" | "NONE" | "STATIC" | "DNS" | "DNS_ROUND_ROBIN" | "DYNAMIC_DNS") {
        let message = format!("{:?} is not one we know; NONE is used", &*spec.resolution);
        error("spec.resolution", message, "write NONE, STATIC, DNS, DNS_ROUND_ROBIN or DYNAMIC_DNS");
    }
    if !matches!(&*spec.location, "" | "MESH_EXTERNAL" | "MESH_INTERNAL") {
        let message = format!("{:?} is not one we know; MESH_EXTERNAL is used", &*spec.location);
        error("spec.location", message, "write MESH_EXTERNAL or MESH_INTERNAL");
    }
    if spec.ports.is_empty() {
        error("spec.ports", "no port: nothing can be sent to it".into(), "add the ports of the host");
    }
    let by_dns = matches!(resolution(spec), Resolution::Dns | Resolution::DnsRoundRobin);
    if by_dns && host.starts_with('*') && spec.endpoints.is_empty() {
        let fix = "write the hosts one by one, or resolution: DYNAMIC_DNS";
        error("spec.hosts", format!("{host} cannot be resolved: it is a wildcard"), fix);
    }
    if resolution(spec) == Resolution::Static && spec.endpoints.is_empty() && spec.workload_selector.is_none() {
        let fix = "add endpoints or a workloadSelector, or write resolution: DNS";
        error("spec.endpoints", "STATIC without endpoints: requests to it fail with 503".into(), fix);
    }
    if !spec.endpoints.is_empty() && spec.workload_selector.is_some() {
        let message = "endpoints and workloadSelector exclude each other; both are used".to_owned();
        error("spec.workloadSelector", message, "keep one of them");
    }
}

fn endpoints(input: &Input<'_>, port: &Port, number: u16, found: &mut Vec<Diagnostic>) -> Vec<Endpoint> {
    let spec = input.spec;
    let mut set: BTreeMap<EndpointAddr, Endpoint> = BTreeMap::new();
    let target = port_number(port.target_port).unwrap_or(number);
    let resolution = resolution(spec);
    if matches!(resolution, Resolution::None | Resolution::DynamicDns) {
        return Vec::new();
    }
    let mut add = |addr: SocketAddr, weight: Option<u32>, workload: Option<Arc<Workload>>, locality: Locality| {
        let addr = EndpointAddr::new(addr);
        // "weight: … unspecified or 0 … 1"
        let weight = weight.unwrap_or(1).max(1);
        set.entry(addr).or_insert(Endpoint { addr, weight, health: EndpointHealth::Ready, workload, locality });
    };
    let resolve = |name: &str| {
        let mut answers = (input.resolved)(name);
        if resolution == Resolution::DnsRoundRobin {
            answers.truncate(1);
        }
        answers
    };
    for (i, entry) in spec.endpoints.iter().enumerate() {
        let at = format!("spec.endpoints[{i}]");
        let port = entry_port(entry, port, target, &at, found);
        let ips = match entry.address.parse::<IpAddr>() {
            Ok(ip) => vec![ip.to_canonical()],
            Err(_) if resolution != Resolution::Static && is_host(&entry.address) => resolve(&entry.address),
            Err(_) => {
                let fix = "write an IP address; for names write resolution: DNS";
                let message = format!("{:?} is not an IP address; the endpoint is left out", &*entry.address);
                let diagnostic = Diagnostic::error(Code::SchemaValidationError, message);
                found.push(diagnostic.field(format!("{at}.address")).fix(fix));
                continue;
            }
        };
        for ip in ips {
            let workload = workload(entry, &input.name.namespace, &entry.address);
            add(SocketAddr::new(ip, port), entry.weight, workload, locality(&entry.locality));
        }
    }
    for selected in &input.selected {
        match selected {
            Selected::Pod(pod, Some(workload)) if !super::workload::is_finished(pod) => {
                for ip in workload.ips.iter().take(1) {
                    add(SocketAddr::new(*ip, target), None, Some(Arc::clone(workload)), workload.locality.clone());
                }
            }
            Selected::Pod(..) => {}
            Selected::Entry(r, entry) => {
                let port = entry_port(entry, port, target, "spec.endpoints", &mut Vec::new());
                let ips = match entry.address.parse::<IpAddr>() {
                    Ok(ip) => vec![ip.to_canonical()],
                    Err(_) => resolve(&entry.address),
                };
                for ip in ips {
                    let workload = workload(entry, &r.key.namespace, &r.key.name);
                    add(SocketAddr::new(ip, port), entry.weight, workload, locality(&entry.locality));
                }
            }
        }
    }
    if spec.endpoints.is_empty() && spec.workload_selector.is_none() && !input.name.name.starts_with('*') {
        for ip in resolve(&input.name.name) {
            add(SocketAddr::new(ip, target), None, None, Locality::default());
        }
    }
    set.into_values().collect()
}

/// "If the port map is specified, the named port; else targetPort; else the service port."
fn entry_port(entry: &WorkloadEntrySpec, port: &Port, target: u16, at: &str, found: &mut Vec<Diagnostic>) -> u16 {
    let Some(number) = entry.ports.get(&port.name) else { return target };
    port_number(*number).unwrap_or_else(|| {
        let message = format!("{number} is not a port number; {target} is used");
        let diagnostic = Diagnostic::error(Code::SchemaValidationError, message);
        found.push(diagnostic.field(format!("{at}.ports[{}]", port.name)).fix("write a number from 1 to 65535"));
        target
    })
}

/// What subsets select by, and what metrics call it. None where the entry says nothing about it.
fn workload(entry: &WorkloadEntrySpec, namespace: &Arc<str>, name: &str) -> Option<Arc<Workload>> {
    if entry.labels.is_empty() && entry.service_account.is_empty() {
        return None;
    }
    Some(Arc::new(Workload {
        key: WorkloadKey { namespace: Arc::clone(namespace), name: name.into(), uid: "".into() },
        owner: Owner { kind: "WorkloadEntry".into(), name: name.into() },
        service_account: Arc::clone(&entry.service_account),
        node: "".into(),
        labels: entry.labels.clone(),
        ips: entry.address.parse().into_iter().collect(),
        locality: locality(&entry.locality),
        enrolment: Enrolment::Outside { reason: OutsideReason::NamespaceNotLabelled },
    }))
}

/// `region/zone/subzone`
fn locality(text: &str) -> Locality {
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or("").into();
    Locality { region: next(), zone: next(), subzone: next() }
}
