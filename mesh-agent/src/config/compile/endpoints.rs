//! Endpoints of one Service port: from its EndpointSlices, else its Endpoints object, else (files have no endpoint
//! controller) from the pods its selector names.

use super::index::PodName;
use super::workload::{is_finished, not_an_address};
use crate::addr::EndpointAddr;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{
    AddressType, EndpointSlice, Endpoints, ObjectReference, Pod, Resource, ServicePort, ServiceSpec, SliceEndpoint,
    TargetPort,
};
use crate::snapshot::{Endpoint, EndpointHealth, EndpointSet, Locality, Workload};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What else is in force, as one Service's compilation asks for it. Implemented by the compiler, which notes every
/// question: a change of an answer compiles the Service again.
pub(super) struct View<'a> {
    pub(super) workload_of_pod: &'a mut dyn FnMut(&PodName) -> Option<Arc<Workload>>,
    pub(super) workload_at: &'a mut dyn FnMut(IpAddr) -> Option<Arc<Workload>>,
    pub(super) locality_of_node: &'a mut dyn FnMut(&Arc<str>) -> Locality,
}

/// Where a Service's endpoints come from.
pub(super) enum Origin<'a> {
    Slices(Vec<&'a Resource>),
    Endpoints(&'a Resource),
    /// Pods with their compiled workloads.
    Pods(Vec<(&'a Pod, bool, Option<Arc<Workload>>)>),
}

/// A diagnostic and the object it is about, where that is not the Service.
pub(super) type Found<'a> = (Option<&'a Resource>, Diagnostic);

/// Endpoints of `port` in order of address, and whether a named target port was found nowhere.
pub(super) fn endpoints<'a>(
    origin: &Origin<'a>,
    spec: &ServiceSpec,
    port: &ServicePort,
    view: &mut View<'_>,
    found: &mut Vec<Found<'a>>,
) -> EndpointSet {
    let mut set = Set::default();
    match origin {
        Origin::Slices(slices) => {
            for r in slices {
                if let crate::config::resource::Object::EndpointSlice(slice) = &r.object {
                    from_slice(r, slice, port, view, &mut set, found);
                }
            }
        }
        Origin::Endpoints(r) => {
            if let crate::config::resource::Object::Endpoints(endpoints) = &r.object {
                from_endpoints(r, endpoints, port, view, &mut set, found);
            }
        }
        Origin::Pods(pods) => from_pods(pods, spec, port, &mut set),
    }
    EndpointSet { endpoints: set.0.into_values().collect() }
}

#[derive(Default)]
struct Set(BTreeMap<EndpointAddr, Endpoint>);

impl Set {
    /// One address listed twice is one endpoint, of the better health.
    fn add(
        &mut self,
        ip: IpAddr,
        port: u16,
        health: EndpointHealth,
        workload: Option<Arc<Workload>>,
        locality: Locality,
    ) {
        let addr = EndpointAddr::new(SocketAddr::new(ip, port));
        let endpoint = Endpoint { addr, weight: 1, health, workload, locality };
        let kept = self.0.entry(addr).or_insert_with(|| endpoint.clone());
        if rank(endpoint.health) < rank(kept.health) {
            *kept = endpoint;
        }
    }
}

fn rank(health: EndpointHealth) -> u8 {
    match health {
        EndpointHealth::Ready => 0,
        EndpointHealth::Draining => 1,
        EndpointHealth::NotReady => 2,
    }
}

fn from_slice<'a>(
    r: &'a Resource,
    slice: &EndpointSlice,
    port: &ServicePort,
    view: &mut View<'_>,
    set: &mut Set,
    found: &mut Vec<Found<'a>>,
) {
    let Some(slice_port) = slice.ports.iter().find(|p| p.name == port.name && p.is_tcp()) else { return };
    // "nil: all ports": the Service's own target is the only number there is.
    let Some(number) = slice_port.port.or_else(|| target_number(port)).and_then(port_number) else {
        let diagnostic = Diagnostic::error(Code::BadPort, format!("port {} has no usable number", slice_port.name));
        return found.push((Some(r), diagnostic.field("ports").fix("write a number from 1 to 65535")));
    };
    if slice.address_type == AddressType::Fqdn {
        let diagnostic =
            Diagnostic::warning(Code::NotSupported, "addressType FQDN: endpoints by name are not resolved");
        return found
            .push((Some(r), diagnostic.field("addressType").fix("list IP addresses (addressType IPv4 or IPv6)")));
    }
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        let Some(text) = endpoint.addresses.first() else { continue };
        let Ok(ip) = text.parse::<IpAddr>() else {
            found.push((Some(r), not_an_address(format!("endpoints[{i}].addresses[0]"), text)));
            continue;
        };
        let workload = workload(endpoint.target_ref.as_ref(), &r.key.namespace, ip, view);
        let mut locality = place(workload.as_deref(), &endpoint.node_name, view);
        if !endpoint.zone.is_empty() {
            locality.zone = Arc::clone(&endpoint.zone);
        }
        set.add(ip, number, slice_health(endpoint), workload, locality);
    }
}

/// KEP-1672: `serving` is readiness without regard to termination; unknown readiness counts as ready.
fn slice_health(endpoint: &SliceEndpoint) -> EndpointHealth {
    let conditions = endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    if ready && !conditions.terminating.unwrap_or(false) {
        EndpointHealth::Ready
    } else if serving {
        EndpointHealth::Draining
    } else {
        EndpointHealth::NotReady
    }
}

fn from_endpoints<'a>(
    r: &'a Resource,
    endpoints: &Endpoints,
    port: &ServicePort,
    view: &mut View<'_>,
    set: &mut Set,
    found: &mut Vec<Found<'a>>,
) {
    for (s, subset) in endpoints.subsets.iter().enumerate() {
        let Some(subset_port) = subset.ports.iter().find(|p| p.name == port.name && p.is_tcp()) else { continue };
        let Some(number) = subset_port.port.and_then(port_number) else {
            let diagnostic =
                Diagnostic::error(Code::BadPort, format!("port {:?} has no usable number", &*subset_port.name));
            found
                .push((Some(r), diagnostic.field(format!("subsets[{s}].ports")).fix("write a number from 1 to 65535")));
            continue;
        };
        let ready = subset.addresses.iter().enumerate().map(|a| ("addresses", EndpointHealth::Ready, a));
        let not_ready = subset.not_ready_addresses.iter().enumerate();
        let not_ready = not_ready.map(|a| ("notReadyAddresses", EndpointHealth::NotReady, a));
        for (list, health, (i, address)) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                found.push((Some(r), not_an_address(format!("subsets[{s}].{list}[{i}].ip"), &address.ip)));
                continue;
            };
            let workload = workload(address.target_ref.as_ref(), &r.key.namespace, ip, view);
            let locality = place(workload.as_deref(), &address.node_name, view);
            set.add(ip, number, health, workload, locality);
        }
    }
}

fn from_pods(pods: &[(&Pod, bool, Option<Arc<Workload>>)], spec: &ServiceSpec, port: &ServicePort, set: &mut Set) {
    for (pod, terminating, workload) in pods {
        let Some(workload) = workload.as_ref().filter(|_| !is_finished(pod)) else { continue };
        let Some(number) = pod_port(pod, port) else { continue };
        let ready = spec.publish_not_ready_addresses || is_ready(pod);
        let health = match (ready, terminating) {
            (true, false) => EndpointHealth::Ready,
            (true, true) => EndpointHealth::Draining,
            (false, _) => EndpointHealth::NotReady,
        };
        // A pod on the host's network owns no address in the snapshot, but serves on its node's.
        for ip in families(spec, &super::workload::ips(pod, &mut Vec::new())) {
            set.add(ip, number, health, Some(Arc::clone(workload)), workload.locality.clone());
        }
    }
}

/// The pod's addresses of the Service's families, one of each, as the endpoint controller picks them.
fn families(spec: &ServiceSpec, ips: &[IpAddr]) -> Vec<IpAddr> {
    let of = |v4: bool| ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
    if !spec.ip_families.is_empty() {
        return spec.ip_families.iter().filter_map(|family| of(&**family == "IPv4")).collect();
    }
    let listed = spec.cluster_ips.iter().chain((!spec.cluster_ip.is_empty()).then_some(&spec.cluster_ip));
    let vips: Vec<bool> =
        listed.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical().is_ipv4()).collect();
    if vips.is_empty() {
        return ips.first().copied().into_iter().collect();
    }
    [true, false].into_iter().filter(|v4| vips.contains(v4)).filter_map(of).collect()
}

/// The pod's port for a Service port; none where a named target is none of its ports.
pub(super) fn pod_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        Some(TargetPort::Name(name)) => {
            let named = pod.spec.ports().find(|p| p.name == *name && p.is_tcp());
            named.map(|p| p.container_port).filter(|number| *number != 0)
        }
        _ => target_number(port).and_then(port_number),
    }
}

/// "If this is not specified, the value of the 'port' field is used."
fn target_number(port: &ServicePort) -> Option<i64> {
    match port.target_port {
        Some(TargetPort::Number(n)) if n != 0 => Some(n),
        Some(TargetPort::Number(_)) | None => Some(port.port),
        Some(TargetPort::Name(_)) => None,
    }
}

pub(super) fn port_number(n: i64) -> Option<u16> {
    u16::try_from(n).ok().filter(|n| *n != 0)
}

/// The `Ready` condition; hand-written pods have none and count as ready unless their phase says otherwise.
fn is_ready(pod: &Pod) -> bool {
    let condition = pod.status.conditions.iter().find(|c| &*c.kind == "Ready");
    match condition {
        Some(condition) => &*condition.status == "True",
        None => matches!(&*pod.status.phase, "" | "Running"),
    }
}

fn workload(
    reference: Option<&ObjectReference>,
    namespace: &Arc<str>,
    ip: IpAddr,
    view: &mut View<'_>,
) -> Option<Arc<Workload>> {
    if let Some(pod) = reference.filter(|r| &*r.kind == "Pod") {
        let namespace = if pod.namespace.is_empty() { namespace } else { &pod.namespace };
        if let Some(workload) = (view.workload_of_pod)(&(Arc::clone(namespace), Arc::clone(&pod.name))) {
            return Some(workload);
        }
    }
    (view.workload_at)(ip)
}

fn place(workload: Option<&Workload>, node: &Arc<str>, view: &mut View<'_>) -> Locality {
    match workload {
        Some(workload) => workload.locality.clone(),
        None if node.is_empty() => Locality::default(),
        None => (view.locality_of_node)(node),
    }
}
