//! What a host means for the client, and which objects about it do not count.

use super::question::Wrong;
use super::view::{Lookup, Reference, Shadowed};
use super::{Asking, World, dial, reference};
use crate::destination::resolve::{Resolved, To};
use crate::route::Head;
use crate::snapshot::route::{Family, VirtualHost};
use crate::snapshot::{Client, Protocol, RULED_PORT, Service, ServicePort, Workload, covers_host, host_names};
use std::sync::Arc;

/// How the host of a request was found; sentences about what was in the way are added to `notes`.
pub(super) fn of_request(asking: &Asking<'_>, resolved: &Resolved, notes: &mut Vec<String>) -> Lookup {
    let snapshot = asking.world.snapshot;
    let authority = Head::of(&asking.asked.parts).authority;
    let names = host_names(authority, asking.client().namespace, &snapshot.mesh().cluster_domain);
    let mut lookup = of_destination(asking, &resolved.to);
    let hosts: Vec<&str> = match &resolved.to {
        To::Service(service, _) | To::Pod(_, _, Some((service, _))) => vec![&service.host],
        _ => names.iter().map(String::as_str).collect(),
    };
    lookup.shadowed = shadowed_rules(asking, &hosts, resolved.rules.as_ref());
    lookup.rules_of = resolved.rules.as_ref().map(|rules| rules.host.to_string());
    notes.extend(hidden(asking, &resolved.to, authority));
    lookup.names = names;
    lookup
}

/// As above, for a connection of which only the address is known.
pub(super) fn of_destination(asking: &Asking<'_>, to: &To) -> Lookup {
    let service = |service: &Service, port: &ServicePort| {
        (format!("{}:{}", service.name, port.port), port.protocol, asking.definition(service))
    };
    let (found, known) = match to {
        To::Service(of, port) => ("service", Some(service(of, port))),
        To::Pod(_, _, port) => ("pod", port.as_ref().map(|(of, port)| service(of, port))),
        To::Nowhere => ("routes", None),
        To::Unknown(_) => ("unknown", None),
        To::Blocked => ("blocked", None),
        To::Gone(_) => ("nothing", None),
    };
    let (service, protocol, object) = known.map_or((None, None, None), |(s, p, o)| (Some(s), Some(p), o));
    Lookup {
        found: found.into(),
        names: Vec::new(),
        service,
        protocol: protocol.map(|protocol| word(protocol).into()),
        object,
        taken_by: "agent".into(),
        opaque: false,
        rules_of: None,
        shadowed: Vec::new(),
    }
}

/// Of a request to a gateway: no Service is looked up, its routes know.
pub(super) fn of_gateway(authority: &str, rules: Option<&VirtualHost>) -> Lookup {
    Lookup {
        found: "gateway".into(),
        names: vec![authority.to_owned()],
        service: None,
        protocol: None,
        object: None,
        taken_by: "agent".into(),
        opaque: false,
        rules_of: rules.map(|rules| rules.host.to_string()),
        shadowed: Vec::new(),
    }
}

/// A pod of the Gateway `namespace/name`.
pub(super) fn gateway_pod(world: &World<'_>, name: &str) -> Result<Arc<Workload>, Wrong> {
    let all = || world.snapshot.gateways();
    let mut pods: Vec<_> = all().filter(|(_, gateway)| gateway.names.iter().any(|n| **n == *name)).collect();
    pods.sort_by_key(|(pod, _)| *pod);
    if let Some(pod) = pods.first().and_then(|(pod, _)| world.snapshot.workload(pod)) {
        return Ok(Arc::clone(pod));
    }
    let mut known: Vec<String> = all().flat_map(|(_, gateway)| gateway.names.iter().map(ToString::to_string)).collect();
    known.sort();
    known.dedup();
    let known = if known.is_empty() { "there is none".into() } else { format!("there are {}", known.join(", ")) };
    Err(Wrong(format!("no pod serves a Gateway called `{name}` ({known}); write NAMESPACE/NAME")))
}

/// Rules about the host that do not hold for the client.
fn shadowed_rules(asking: &Asking<'_>, hosts: &[&str], chosen: Option<&Arc<VirtualHost>>) -> Vec<Shadowed> {
    let about = |v: &VirtualHost| hosts.iter().any(|host| *v.host == **host || covers_host(&v.host, host));
    let others = asking.world.snapshot.virtual_hosts().filter(|v| chosen.is_none_or(|chosen| !Arc::ptr_eq(v, chosen)));
    let mut shadowed = Vec::new();
    for other in others.filter(|v| v.family != Family::Default && about(v)) {
        let why = why_shadowed(asking, other, chosen);
        for route in other.routes.iter() {
            let Some(object) = &route.rule.object else { continue };
            let reference = reference::of_object(asking.world.compiler, object);
            let known = |s: &Shadowed| s.reference == reference;
            if !shadowed.iter().any(known) {
                shadowed.push(Shadowed { reference, why: why.clone() });
            }
        }
    }
    shadowed.sort_by(|a, b| a.reference.object.cmp(&b.reference.object));
    shadowed
}

fn why_shadowed(asking: &Asking<'_>, other: &VirtualHost, chosen: Option<&Arc<VirtualHost>>) -> String {
    let (client, port) = (asking.client(), asking.address.port());
    if !other.export.visible_to(&other.namespace, client.namespace) {
        return format!("not visible from namespace {}", client.namespace);
    }
    if !other.ports.is_empty() && !other.ports.contains(&port) {
        return format!("not for port {port}");
    }
    let snapshot = asking.world.snapshot;
    let scope = snapshot.egress(&client, &snapshot.mesh().root_namespace);
    if other.family == Family::Istio && scope.is_some_and(|s| !s.allows(&other.namespace, &other.host, port)) {
        return format!("the Sidecar's egress has no {}/{}", other.namespace, other.host);
    }
    match chosen {
        None if other.host.starts_with('*') && port == RULED_PORT => "it covers Services, and is for those".into(),
        None if port == RULED_PORT => format!("the Service has no port {port}"),
        None => format!("hosts without a Service are served on port 80, not {port}"),
        Some(chosen) if chosen.host != other.host => format!("{} is the more specific host", chosen.host),
        Some(chosen) if chosen.family != other.family => {
            "a VirtualService counts before an HTTPRoute or GRPCRoute of the same host".into()
        }
        Some(_) => "another object has the same host, and is closer to the client or older".into(),
    }
}

/// Why a Service that exists is not where the request goes, or is only since the client has its address.
pub(super) fn hidden(asking: &Asking<'_>, to: &To, host: &str) -> Option<String> {
    match to {
        To::Unknown(_) | To::Blocked => {
            dial::service(asking.world.snapshot, &asking.client(), host).map(|service| hidden_because(asking, service))
        }
        To::Service(service, _) if !service.export.visible_to(&service.name.namespace, asking.client().namespace) => {
            Some(format!("{}; it is found by its address", hidden_because(asking, service)))
        }
        _ => None,
    }
}

fn hidden_because(asking: &Asking<'_>, service: &Service) -> String {
    let (client, snapshot, port) = (asking.client(), asking.world.snapshot, asking.address.port());
    let name = &service.name;
    if !service.export.visible_to(&name.namespace, client.namespace) {
        return format!("Service {name} is not exported to namespace {}", client.namespace);
    }
    let scope = snapshot.egress(&client, &snapshot.mesh().root_namespace);
    if let Some(scope) = scope.filter(|scope| !scope.allows(&name.namespace, &service.host, port)) {
        let sidecar = asking.reference(&scope.rule).object;
        return format!("{sidecar} does not list {} in its egress hosts: the client does not see it", service.host);
    }
    let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    format!("Service {name} has no port {port}; it has {}", ports.join(", "))
}

impl Asking<'_> {
    pub(super) fn definition(&self, service: &Service) -> Option<Reference> {
        let compiler = self.world.compiler;
        compiler.definition(&service.name).map(|object| reference::of_object(compiler, &object))
    }

    /// The DestinationRules about a Service that do not hold for the client, beside `chosen`.
    pub(super) fn shadowed_policies(
        &self,
        service: &Service,
        chosen: Option<&Arc<crate::snapshot::policy::DestinationPolicy>>,
    ) -> Vec<Shadowed> {
        let (client, snapshot) = (self.client(), self.world.snapshot);
        let root = &snapshot.mesh().root_namespace;
        let others = snapshot.destination_policies().filter(|p| chosen.is_none_or(|chosen| !Arc::ptr_eq(p, chosen)));
        let mut shadowed = Vec::new();
        for other in others.filter(|p| *p.host == *service.host || covers_host(&p.host, &service.host)) {
            let why = if !other.export.visible_to(&other.namespace, client.namespace) {
                format!("not exported to namespace {}", client.namespace)
            } else if !selects(&other.selector, &client) {
                "its workloadSelector does not select the client".into()
            } else if ![client.namespace, &service.name.namespace, root].contains(&&*other.namespace) {
                "its namespace is neither the client's, nor the Service's, nor the root namespace".into()
            } else {
                match chosen {
                    Some(chosen) if chosen.namespace == other.namespace && chosen.host != other.host => {
                        format!("{} is the more specific host", chosen.host)
                    }
                    Some(chosen) if chosen.namespace == other.namespace => "another one selects the client".into(),
                    Some(chosen) => format!("one of namespace {} counts before", chosen.namespace),
                    None => "in the root namespace only private ones hold for its own clients".into(),
                }
            };
            let of = |rule| Shadowed { reference: self.reference(rule), why: why.clone() };
            shadowed.extend(other.rules.iter().map(of));
        }
        shadowed.sort_by(|a, b| a.reference.object.cmp(&b.reference.object));
        shadowed
    }
}

fn selects(selector: &std::collections::BTreeMap<Arc<str>, Arc<str>>, client: &Client<'_>) -> bool {
    crate::snapshot::is_subset(selector, client.labels)
}

/// As in `services`.
pub(super) fn word(protocol: Protocol) -> &'static str {
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
