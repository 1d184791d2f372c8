//! Gateways among each other and with the Services in front of their pods (IST0138, IST0145, IST0162), rules
//! of the mesh that a gateway knows nothing of (IST0140).

use super::World;
use crate::config::compile::names;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::gateway::{Gateway, Server};
use crate::config::resource::istio::virtual_service::Spec;
use crate::config::resource::{Labels, Resource, TargetPort};
use crate::snapshot::route::MESH;
use crate::snapshot::{covers_host, is_subset};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    let gateways = world.gateways();
    for (i, (r, gateway)) in gateways.iter().enumerate() {
        for (other, theirs) in gateways.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, other)| other) {
            if same_pods(world, &gateway.spec.selector, &theirs.spec.selector) {
                conflicts(world, (r, gateway), (other, theirs));
                shared_certificates(world, (r, gateway), (other, theirs));
            }
        }
        unexposed(world, r, gateway);
    }
    unchosen_subsets(world);
}

/// A gateway has only the rules that are bound to it: a subset that another VirtualService chooses for the same host is
/// not chosen for who comes through the gateway.
fn unchosen_subsets(world: &mut World<'_>) {
    let all = world.virtual_services();
    let bound = |r: &Resource, spec: &Spec| -> BTreeSet<Arc<str>> {
        let named = spec.gateways.iter().filter(|name| &***name != MESH);
        named.map(|name| names::gateway(name, &r.key.namespace)).collect()
    };
    let mut chosen: BTreeMap<Arc<str>, Vec<(&Resource, &Spec)>> = BTreeMap::new();
    for (r, spec) in &all {
        let hosts: BTreeSet<_> = spec.hosts.iter().map(|host| world.fqdn(host, r)).collect();
        let to = spec.http.iter().flat_map(|http| &http.route).map(|route| &route.destination);
        let subsets: BTreeSet<_> = to.filter(|to| !to.subset.is_empty()).map(|to| world.fqdn(&to.host, r)).collect();
        subsets.intersection(&hosts).for_each(|host| chosen.entry(Arc::clone(host)).or_default().push((r, spec)));
    }
    for (r, spec) in &all {
        let gateways = bound(r, spec);
        let Some(gateway) = gateways.first() else { continue };
        for (i, http) in spec.http.iter().enumerate() {
            for (n, route) in http.route.iter().enumerate().filter(|(_, route)| route.destination.subset.is_empty()) {
                let host = world.fqdn(&route.destination.host, r);
                let elsewhere = |(other, theirs): &&(&Resource, &Spec)| {
                    other.key != r.key && bound(other, theirs).is_disjoint(&gateways)
                };
                let Some((other, _)) = chosen.get(&host).and_then(|rules| rules.iter().find(elsewhere)) else {
                    continue;
                };
                let message = format!(
                    "{} chooses subsets of {host}, but not for {gateway}: requests that come through it go to all endpoints",
                    other.key
                );
                let diagnostic = Diagnostic::warning(Code::IngressRouteRulesNotAffected, message);
                let field = format!("spec.http[{i}].route[{n}].destination");
                world.say(r, diagnostic, field, "name the subset here too, or bind the other rules to the gateway");
            }
        }
    }
}

/// The selectors are equal, or some pod has the labels of both.
fn same_pods(world: &World<'_>, one: &Labels, other: &Labels) -> bool {
    let both = || world.pods().iter().any(|(_, labels)| is_subset(one, labels) && is_subset(other, labels));
    !one.is_empty() && !other.is_empty() && (one == other || both())
}

/// Two Gateways for the same pods, port and host: whose TLS setting holds is nobody's intention.
fn conflicts(world: &mut World<'_>, (r, gateway): (&Resource, &Gateway), (other, theirs): (&Resource, &Gateway)) {
    for (s, server) in gateway.spec.servers.iter().enumerate() {
        let rival = |f: &&Server| {
            f.port.number == server.port.number
                && f.port.number != 0
                && f.bind == server.bind
                && f.hosts.iter().any(|h| server.hosts.contains(h))
        };
        if theirs.spec.servers.iter().any(|server| rival(&server)) {
            let message =
                format!("{} serves port {} of the same pods for the same hosts", other.key, server.port.number);
            let diagnostic = Diagnostic::error(Code::ConflictingGateways, message);
            let fix = "give each Gateway hosts of its own, or make them one";
            world.say(r, diagnostic, format!("spec.servers[{s}].hosts"), fix);
        }
    }
}

/// A browser that has a connection to one host uses it for the other where the certificate covers both (RFC 9113 §9.1.1),
/// and meets a server without routes for it.
fn shared_certificates(
    world: &mut World<'_>,
    (r, gateway): (&Resource, &Gateway),
    (other, theirs): (&Resource, &Gateway),
) {
    let certificates = |server: &Server| {
        let tls = server.tls.as_ref().filter(|tls| matches!(&*tls.mode, "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL"))?;
        let named = tls.credential_names.iter().chain([&tls.credential_name, &tls.server_certificate]);
        Some(named.filter(|name| !name.is_empty()).cloned().collect::<BTreeSet<_>>())
    };
    let covers = |a: &str, b: &str| a == b || covers_host(a, b) || covers_host(b, a);
    for (s, server) in gateway.spec.servers.iter().enumerate() {
        let Some(own) = certificates(server) else { continue };
        let rival =
            theirs.spec.servers.iter().find(|server| certificates(server).is_some_and(|c| !c.is_disjoint(&own)));
        let apart = |rival: &&Server| !rival.hosts.iter().any(|h| server.hosts.iter().any(|own| covers(h, own)));
        if rival.filter(apart).is_some() {
            let message = format!(
                "{} has the same certificate for other hosts: HTTP/2 clients that reuse a connection get 404 (421)",
                other.key
            );
            let diagnostic = Diagnostic::warning(Code::GatewayDuplicateCertificate, message);
            let fix = "give each Gateway a certificate of its own, or serve the hosts by one Gateway";
            world.say(r, diagnostic, format!("spec.servers[{s}].tls"), fix);
        }
    }
}

/// Said where there are Services in front of the pods, and none of them leads to the port.
fn unexposed(world: &mut World<'_>, r: &Resource, gateway: &Gateway) {
    let selector = &gateway.spec.selector;
    let pods: Vec<_> = world.pods().into_iter().filter(|(_, labels)| is_subset(selector, labels)).collect();
    let in_front = |namespace: &str, wanted: &Labels| {
        !wanted.is_empty()
            && pods.iter().any(|(pod, labels)| &*pod.key.namespace == namespace && is_subset(wanted, labels))
    };
    let services = world.services();
    let mut ports = services
        .iter()
        .filter(|(service, spec)| in_front(&service.key.namespace, &spec.selector))
        .flat_map(|(_, spec)| &spec.ports)
        .peekable();
    if selector.is_empty() || ports.peek().is_none() {
        return;
    }
    let mut exposed = BTreeSet::new();
    for port in ports {
        match &port.target_port {
            Some(TargetPort::Number(number)) => exposed.extend([*number, port.port]),
            // Which number a name is, the pods say.
            Some(TargetPort::Name(_)) => return,
            None => exposed.extend([port.port]),
        }
    }
    for (s, server) in gateway.spec.servers.iter().enumerate().filter(|(_, s)| !exposed.contains(&s.port.number)) {
        let message =
            format!("no Service of the gateway's pods leads to port {}: nobody outside reaches it", server.port.number);
        let diagnostic = Diagnostic::warning(Code::GatewayPortNotDefinedOnService, message);
        let fix = "add a port with this targetPort to the Service in front of the gateway";
        world.say(r, diagnostic, format!("spec.servers[{s}].port.number"), fix);
    }
}
