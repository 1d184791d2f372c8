//! Service → compiled Service: addresses, ports, protocols, policies, endpoints.

use super::endpoints::{Found, Origin, View, endpoints, pod_port, port_number};
use super::names::visibility;
use super::protocol::{Declared, protocol};
use super::workload::not_an_address;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{self, Resource, ServiceSpec, TargetPort};
use crate::snapshot::route::Visibility;
use crate::snapshot::{
    EndpointSet, LbPolicy, PortKey, Protocol, Service, ServiceName, ServicePort, TrafficDistribution,
};
use std::net::IpAddr;
use std::sync::Arc;

/// On a Service: `round-robin`, `least-request`, `peak-ewma` or `random`.
pub const LOAD_BALANCER_ANNOTATION: &str = "undermesh.dev/load-balancer";

const EXPORT_ANNOTATION: &str = "networking.istio.io/exportTo";
const TRAFFIC_DISTRIBUTION_ANNOTATION: &str = "networking.istio.io/traffic-distribution";

/// `spec.clusterIPs`, else `spec.clusterIP`; those that are none are named.
pub(super) fn vips(spec: &ServiceSpec, diagnostics: &mut Vec<Diagnostic>) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let single = spec.cluster_ips.is_empty().then(|| ("spec.clusterIP".to_owned(), &spec.cluster_ip));
    let mut vips = Vec::new();
    for (field, text) in listed.chain(single).filter(|(_, text)| !text.is_empty() && &***text != "None") {
        match text.parse::<IpAddr>() {
            Ok(ip) if !vips.contains(&ip.to_canonical()) => vips.push(ip.to_canonical()),
            Ok(_) => {}
            Err(_) => diagnostics.push(not_an_address(field, text)),
        }
    }
    vips
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    &*spec.cluster_ip == "None" || spec.cluster_ips.first().is_some_and(|ip| &**ip == "None")
}

pub(super) fn is_external(spec: &ServiceSpec) -> bool {
    &*spec.kind == "ExternalName"
}

/// One Service and all that its compilation reads.
pub(super) struct Input<'r, 'a> {
    pub(super) resource: &'r Resource,
    pub(super) spec: &'r ServiceSpec,
    pub(super) name: ServiceName,
    pub(super) cluster_domain: &'r str,
    /// Those it owns.
    pub(super) vips: Vec<IpAddr>,
    pub(super) origin: Origin<'a>,
    /// Lends what stayed the same, so that unchanged ports keep their `Arc`.
    pub(super) former: Option<&'r Service>,
    /// Where the Service says nothing (`defaultServiceExportTo`).
    pub(super) export: &'r Visibility,
}

/// Compiles one Service.
pub(super) fn compile<'a>(input: Input<'_, 'a>, view: &mut View<'_>, found: &mut Vec<Found<'a>>) -> Service {
    let spec = input.spec;
    let mut own = Vec::new();
    let mut ports: Vec<Arc<ServicePort>> = Vec::new();
    let lb = load_balancer(input.resource, &mut own);
    let traffic_distribution = traffic_distribution(input.resource, spec, &mut own);
    if is_external(spec) {
        let message =
            format!("ExternalName: callers are sent to {} by DNS; the mesh does not balance it", spec.external_name);
        own.push(Diagnostic::info(Code::ExternalName, message).field("spec.externalName").fix("none needed"));
    } else {
        address_advice(spec, &input.vips, &mut own);
        for (i, number) in usable_ports(spec, &mut own) {
            ports.push(compile_port(&input, i, number, lb, view, &mut own, found));
        }
        endpoint_advice(spec, &input.origin, &ports, &mut own);
    }
    found.extend(own.into_iter().map(|diagnostic| (None, diagnostic)));
    let host = input.name.host(input.cluster_domain);
    Service {
        export: export(input.resource, input.export),
        traffic_distribution,
        vips: if is_external(spec) { Vec::new() } else { input.vips },
        headless: is_headless(spec),
        ports,
        ..Service::new(input.name, &host)
    }
}

/// TCP ports with a number of their own: index in `spec.ports` and number. The others are named.
fn usable_ports(spec: &ServiceSpec, own: &mut Vec<Diagnostic>) -> Vec<(usize, u16)> {
    let mut usable: Vec<(usize, u16)> = Vec::new();
    for (i, port) in spec.ports.iter().enumerate().filter(|(_, port)| port.is_tcp()) {
        let field = format!("spec.ports[{i}].port");
        let Some(number) = port_number(port.port) else {
            let message = format!("{} is not a port number; the port is left out", port.port);
            own.push(Diagnostic::error(Code::BadPort, message).field(field).fix("write a number from 1 to 65535"));
            continue;
        };
        if usable.iter().any(|(_, taken)| *taken == number) {
            let message = format!("TCP port {number} is declared twice; the first one counts");
            let diagnostic = Diagnostic::error(Code::DuplicatePort, message).field(field);
            own.push(diagnostic.fix("remove one, or give it another number"));
            continue;
        }
        usable.push((i, number));
    }
    usable
}

fn compile_port<'a>(
    input: &Input<'_, 'a>,
    i: usize,
    number: u16,
    lb: LbPolicy,
    view: &mut View<'_>,
    own: &mut Vec<Diagnostic>,
    found: &mut Vec<Found<'a>>,
) -> Arc<ServicePort> {
    let (spec, origin, port) = (input.spec, &input.origin, &input.spec.ports[i]);
    let key = PortKey::new(input.name.clone(), number);
    let former = input.former.and_then(|s| s.ports.iter().find(|p| p.key == key));
    let (protocol, declared) = protocol(port);
    own.extend(protocol_advice(i, port, protocol, declared).filter(|_| !is_installations(input.resource)));
    if let Some(TargetPort::Number(n)) = port.target_port
        && n != 0
        && port_number(n).is_none()
    {
        let diagnostic =
            Diagnostic::error(Code::BadPort, format!("{n} is not a port number; the port has no endpoints"));
        own.push(diagnostic.field(format!("spec.ports[{i}].targetPort")).fix("write a number from 1 to 65535"));
    }
    let set = endpoints(origin, spec, port, view, found);
    if let (Origin::Pods(pods), Some(TargetPort::Name(target))) = (origin, &port.target_port)
        && !pods.is_empty()
        && pods.iter().all(|(pod, ..)| pod_port(pod, port).is_none())
    {
        let message = format!("none of the {} matching pods has a TCP container port named {target:?}", pods.len());
        let diagnostic =
            Diagnostic::warning(Code::NoSuchTargetPort, message).field(format!("spec.ports[{i}].targetPort"));
        own.push(diagnostic.fix("name a container port of the pods, or write the port's number"));
    }
    let endpoints = match former {
        Some(former) if *former.endpoints == set => Arc::clone(&former.endpoints),
        _ => Arc::new(set),
    };
    let new = ServicePort { port: key.port, key, name: Arc::clone(&port.name), protocol, lb, endpoints };
    match former {
        Some(former) if **former == new => Arc::clone(former),
        _ => Arc::new(new),
    }
}

/// `networking.istio.io/exportTo`, separated by commas.
fn export(r: &Resource, default: &Visibility) -> Visibility {
    let list = r.meta.annotations.get(EXPORT_ANNOTATION);
    let list: Vec<Arc<str>> = list.into_iter().flat_map(|l| l.split(',')).map(|name| name.trim().into()).collect();
    visibility(&list, default)
}

/// The field, or Istio's annotation for clusters that do not have it yet.
fn traffic_distribution(r: &Resource, spec: &ServiceSpec, own: &mut Vec<Diagnostic>) -> Option<TrafficDistribution> {
    let annotation = r.meta.annotations.get(TRAFFIC_DISTRIBUTION_ANNOTATION);
    let (value, field) = match annotation {
        Some(value) => (value, format!("metadata.annotations[{TRAFFIC_DISTRIBUTION_ANNOTATION}]")),
        None => (&spec.traffic_distribution, "spec.trafficDistribution".to_owned()),
    };
    match &**value {
        "" => None,
        "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::SameZone),
        "PreferSameNode" => Some(TrafficDistribution::SameNode),
        other => {
            let diagnostic =
                Diagnostic::error(Code::BadAnnotation, format!("{other:?} is not one we know; it has no effect"));
            own.push(diagnostic.field(field).fix("write PreferSameZone, PreferClose or PreferSameNode"));
            None
        }
    }
}

fn load_balancer(r: &Resource, own: &mut Vec<Diagnostic>) -> LbPolicy {
    match r.meta.annotations.get(LOAD_BALANCER_ANNOTATION).map(|v| &**v) {
        None => LbPolicy::Default,
        Some("round-robin") => LbPolicy::RoundRobin,
        Some("least-request") => LbPolicy::LeastRequest,
        Some("peak-ewma") => LbPolicy::PeakEwma,
        Some("random") => LbPolicy::Random,
        Some(other) => {
            let message = format!("{other:?} is no load-balancing policy; the default is used");
            let diagnostic = Diagnostic::error(Code::BadAnnotation, message);
            own.push(
                diagnostic
                    .field(format!("metadata.annotations[{LOAD_BALANCER_ANNOTATION}]"))
                    .fix("write round-robin, least-request, peak-ewma or random"),
            );
            LbPolicy::Default
        }
    }
}

fn address_advice(spec: &ServiceSpec, vips: &[IpAddr], own: &mut Vec<Diagnostic>) {
    if vips.is_empty() && !is_headless(spec) && spec.cluster_ip.is_empty() && spec.cluster_ips.is_empty() {
        let message = "no clusterIP: nothing can be captured for it; it is reachable by its pods' own addresses only";
        own.push(
            Diagnostic::info(Code::NoClusterIp, message)
                .field("spec.clusterIP")
                .fix("files are taken as they are and no address is allocated: write a clusterIP, or None for a headless Service"),
        );
    }
}

/// Part of a cluster's or a mesh's own installation: nobody who reads advice can change its ports.
fn is_installations(r: &Resource) -> bool {
    matches!(&*r.key.namespace, "kube-system" | "kube-public" | "kube-node-lease" | "istio-system")
        || r.meta.labels.contains_key("gateway.istio.io/managed")
}

fn protocol_advice(
    i: usize,
    port: &resource::ServicePort,
    protocol: Protocol,
    declared: Declared,
) -> Option<Diagnostic> {
    const FIX: &str = "name the port <protocol>[-suffix] with http, http2, grpc, grpc-web, https, tls, tcp, mongo, redis or mysql, or set appProtocol";
    let then = match protocol {
        Protocol::Tcp => "its well-known number makes it opaque TCP",
        _ => "the first bytes of each connection will decide",
    };
    let diagnostic = match declared {
        Declared::Yes => return None,
        Declared::No => {
            let message = format!("port {} declares no protocol; {then}", port.port);
            Diagnostic::info(Code::PortNameIsNotUnderNamingConvention, message).field(format!("spec.ports[{i}].name"))
        }
        Declared::UnknownName => {
            let message = format!("port name {:?} does not begin with a protocol; {then}", &*port.name);
            Diagnostic::warning(Code::PortNameIsNotUnderNamingConvention, message)
                .field(format!("spec.ports[{i}].name"))
        }
        Declared::UnknownAppProtocol => {
            let message = format!("appProtocol {:?} is not one we know; {then}", &*port.app_protocol);
            Diagnostic::warning(Code::PortNameIsNotUnderNamingConvention, message)
                .field(format!("spec.ports[{i}].appProtocol"))
        }
    };
    Some(diagnostic.fix(FIX))
}

fn endpoint_advice(spec: &ServiceSpec, origin: &Origin<'_>, ports: &[Arc<ServicePort>], own: &mut Vec<Diagnostic>) {
    let empty = |set: &EndpointSet| set.endpoints.is_empty();
    if ports.is_empty() || !ports.iter().all(|port| empty(&port.endpoints)) {
        return;
    }
    let selector: Vec<String> = spec.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let (why, fix) = match origin {
        Origin::Slices(_) => {
            ("its EndpointSlices list no address for its ports", "check the slices' port names and addresses")
        }
        Origin::Endpoints(_) => {
            ("its Endpoints object lists no address for its ports", "check its port names and addresses")
        }
        Origin::Pods(pods) if !pods.is_empty() => (
            "matching pods have no address or not the target port",
            "give the pods status.podIPs, and check targetPort",
        ),
        Origin::Pods(_) if selector.is_empty() => {
            ("it has no selector, EndpointSlice or Endpoints", "add a selector, or an EndpointSlice for it")
        }
        Origin::Pods(_) => {
            ("no EndpointSlice, Endpoints or Pod matches", "start pods with these labels, or correct the selector")
        }
    };
    let selector = if selector.is_empty() { String::new() } else { format!(" (selector {})", selector.join(",")) };
    own.push(
        Diagnostic::warning(Code::NoEndpoints, format!("no endpoints: {why}{selector}; requests to it fail with 503"))
            .field("spec.selector")
            .fix(fix),
    );
}
