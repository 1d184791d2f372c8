//! Hosts of ServiceEntries that cannot be told from others (IST0134, IST0177), pods that Services see differently (IST0116,
//! IST0137).

use super::World;
use crate::config::compile::protocol;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Labels, Object, Resource, TargetPort};
use crate::snapshot::{Protocol, is_subset};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    unaddressed(world);
    rival_protocols(world);
    shared_pods(world);
}

/// Opaque bytes bear no name: without an address of its own nobody can tell what a connection is for.
fn unaddressed(world: &mut World<'_>) {
    for r in world.objects.clone() {
        let Object::ServiceEntry(entry) = &r.object else { continue };
        let spec = &entry.spec;
        let ports = spec.ports.iter().enumerate().filter(|_| spec.addresses.is_empty());
        for (i, port) in ports {
            let Ok(number) = u16::try_from(port.number) else { continue };
            if protocol::declared(&port.protocol, &port.name, number) == Some(Protocol::Tcp) {
                let message = format!(
                    "port {number} is TCP and the entry has no addresses: any connection to that port may be meant"
                );
                let diagnostic = Diagnostic::warning(Code::ServiceEntryAddressesRequired, message);
                let fix = "add addresses, or write the protocol that is spoken (TLS, HTTP)";
                world.say(r, diagnostic, format!("spec.ports[{i}]"), fix);
            }
        }
    }
}

/// A port of a ServiceEntry, by its index.
struct Port<'a> {
    r: &'a Resource,
    index: usize,
    protocol: &'a str,
    export: &'a [Arc<str>],
}

/// One host and port, two protocols: which of them is spoken depends on who asks.
fn rival_protocols(world: &mut World<'_>) {
    let mut known: BTreeMap<(&Arc<str>, i64), Vec<Port<'_>>> = BTreeMap::new();
    let objects = world.objects.clone();
    for r in &objects {
        let Object::ServiceEntry(entry) = &r.object else { continue };
        for (index, port) in entry.spec.ports.iter().enumerate().filter(|(_, port)| !port.protocol.is_empty()) {
            for host in &entry.spec.hosts {
                let ports = known.entry((host, port.number)).or_default();
                ports.push(Port { r, index, protocol: &port.protocol, export: &entry.spec.export_to });
            }
        }
    }
    for ((host, number), all) in known {
        for Port { r, index, protocol, export } in &all {
            let rival = |other: &&Port<'_>| {
                !other.protocol.eq_ignore_ascii_case(protocol) && both_seen((r, export), (other.r, other.export))
            };
            if let Some(other) = all.iter().find(rival) {
                let message =
                    format!("{host} port {number} is {protocol} here and {} in {}", other.protocol, other.r.key);
                let diagnostic = Diagnostic::warning(Code::ConflictingServiceEntryProtocol, message);
                world.say(r, diagnostic, format!("spec.ports[{index}].protocol"), "write one protocol in all of them");
            }
        }
    }
}

/// Some namespace sees both.
fn both_seen((r, export): (&Resource, &[Arc<str>]), (other, to): (&Resource, &[Arc<str>])) -> bool {
    let sees = |r: &Resource, export: &[Arc<str>], namespace: &str| {
        export.is_empty()
            || export.iter().any(|to| match &**to {
                "*" => true,
                "." => *r.key.namespace == *namespace,
                to => to == namespace,
            })
    };
    let named = export.iter().chain(to).map(|name| &**name).filter(|name| !matches!(*name, "*" | "." | "~"));
    let mut namespaces = named.chain([&*r.key.namespace, &*other.key.namespace]);
    namespaces.any(|namespace| sees(r, export, namespace) && sees(other, to, namespace))
}

/// One port of the same pods under two Services: as what it is served depends on whom clients ask for.
fn shared_pods(world: &mut World<'_>) {
    let services = world.services();
    for (r, labels) in world.pods() {
        let Object::Controller(controller) = &r.object else { continue };
        let template = &controller.spec.template.metadata;
        let says_no = |map: &Labels| map.get("sidecar.istio.io/inject").is_some_and(|value| **value == *"false");
        if says_no(&template.labels) || says_no(&template.annotations) {
            continue;
        }
        let here = |service: &Resource, wanted| service.key.namespace == r.key.namespace && is_subset(wanted, labels);
        let mine = services.iter().filter(|(s, spec)| !spec.selector.is_empty() && here(s, &spec.selector));
        let ports: Vec<_> = mine.flat_map(|(s, spec)| spec.ports.iter().map(move |port| (*s, port))).collect();
        let mut said = (false, false);
        for (i, (one, port)) in ports.iter().enumerate() {
            for (other, theirs) in ports[..i].iter().filter(|(other, _)| other.key != one.key) {
                let target = |p: &crate::config::resource::ServicePort| {
                    p.target_port.clone().unwrap_or(TargetPort::Number(p.port))
                };
                let opaque = |p| protocol::protocol(p).0.is_opaque();
                let both = format!("{} and {}", other.key, one.key);
                if port.port == theirs.port && opaque(port) != opaque(theirs) && !std::mem::replace(&mut said.0, true) {
                    let message = format!("{both} declare different protocols for port {}", port.port);
                    let diagnostic = Diagnostic::warning(Code::DeploymentAssociatedToMultipleServices, message);
                    world.say(r, diagnostic, "spec.template.metadata.labels", "declare one protocol in both Services");
                }
                if port.port != theirs.port && target(port) == target(theirs) && !std::mem::replace(&mut said.1, true) {
                    let message =
                        format!("{both} lead to one targetPort by different ports, {} and {}", theirs.port, port.port);
                    let diagnostic = Diagnostic::warning(Code::DeploymentConflictingPorts, message);
                    world.say(r, diagnostic, "spec.template.metadata.labels", "give both Services one port for it");
                }
            }
        }
    }
}
