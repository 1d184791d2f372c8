//! Hosts that several objects claim, or that no gateway serves (IST0109, IST0132, IST0145).

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, Object, ObjectKey};
use crate::snapshot::covers_host;
use crate::snapshot::route::MESH;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    conflicting_virtual_services(world);
    hosts_without_gateway(world);
    conflicting_gateways(world);
}

/// For one client the oldest one counts; the others are without effect wherever the same clients see them.
fn conflicting_virtual_services(world: &mut World<'_>) {
    let compiler = world.compiler;
    let mut done = BTreeSet::new();
    for (r, spec) in world.virtual_services() {
        for host in super::super::route::hosts_of(spec, &r.key.namespace, &compiler.settings.cluster_domain) {
            if !done.insert(Arc::clone(&host)) {
                continue;
            }
            let all: Vec<_> = compiler.traffic.of_host(&host).filter(|(_, c)| c.binds(MESH)).collect();
            for (i, (key, loser)) in all.iter().enumerate() {
                let same = |other: &super::super::route::Compiled| {
                    other.export == loser.export
                        && (other.namespace == loser.namespace
                            || other.export == crate::snapshot::route::Visibility::Public)
                };
                let Some((winner, _)) = all[..i].iter().find(|(_, other)| same(other)) else { continue };
                let Some(r) = compiler.index.get(key) else { continue };
                let at = spec_host(world, key, &host);
                let message = format!("{winner} is older and has the host {host} too: for it this one has no effect");
                let diagnostic = Diagnostic::error(Code::ConflictingMeshGatewayVirtualServiceHosts, message);
                world.say(
                    r,
                    diagnostic,
                    at,
                    "put the rules of both into one VirtualService, in the order that is meant",
                );
            }
        }
    }
}

fn spec_host(world: &World<'_>, key: &ObjectKey, host: &str) -> String {
    let found = world.virtual_services().into_iter().find(|(r, _)| r.key == *key);
    let at = found.and_then(|(r, spec)| spec.hosts.iter().position(|h| *world.fqdn(h, r) == *host));
    at.map_or_else(|| "spec.hosts".to_owned(), |i| format!("spec.hosts[{i}]"))
}

fn hosts_without_gateway(world: &mut World<'_>) {
    for (r, spec) in world.virtual_services() {
        for (i, name) in spec.gateways.iter().enumerate().filter(|(_, name)| &***name != MESH) {
            let full = super::super::names::gateway(name, &r.key.namespace);
            let Some((namespace, name)) = full.split_once('/') else { continue };
            let key = ObjectKey::new(Kind::IstioGateway, namespace, name);
            let Some(Object::IstioGateway(gateway)) = world.compiler.index.get(&key).map(|g| &g.object) else {
                continue;
            };
            let servers: Vec<_> = gateway.spec.servers.iter().flat_map(|s| &s.hosts).collect();
            for host in &spec.hosts {
                let full_host = world.fqdn(host, r);
                let serves = |server: &&Arc<str>| {
                    let (ns, dns) = server.split_once('/').unwrap_or(("*", server));
                    let here = match ns {
                        "*" => true,
                        "." => *r.key.namespace == *namespace,
                        ns => ns == &*r.key.namespace,
                    };
                    here && intersects(dns, host, &full_host)
                };
                if !servers.iter().any(serves) {
                    let message =
                        format!("Gateway {full} has no server for the host {host}: through it the host is 404");
                    let diagnostic = Diagnostic::warning(Code::VirtualServiceHostNotFoundInGateway, message);
                    let fix = "add the host to the Gateway's servers[].hosts, or remove the gateway here";
                    world.say(r, diagnostic, format!("spec.gateways[{i}]"), fix);
                }
            }
        }
    }
}

fn intersects(server: &str, host: &str, full: &str) -> bool {
    let cover = |a: &str, b: &str| a == b || a == "*" || b == "*" || covers_host(a, b) || covers_host(b, a);
    cover(server, host) || cover(server, full)
}

/// Two Gateways for the same pods, port and host: whose TLS setting holds is nobody's intention.
fn conflicting_gateways(world: &mut World<'_>) {
    let gateways = world.gateways();
    for (i, (r, gateway)) in gateways.iter().enumerate() {
        for (other, former) in &gateways[..i] {
            if gateway.spec.selector != former.spec.selector || gateway.spec.selector.is_empty() {
                continue;
            }
            for (s, server) in gateway.spec.servers.iter().enumerate() {
                let same = former.spec.servers.iter().find(|f| {
                    f.port.number == server.port.number
                        && f.bind == server.bind
                        && f.hosts.iter().any(|h| server.hosts.contains(h))
                });
                if same.is_some() {
                    let message =
                        format!("{} serves port {} of the same pods for the same hosts", other.key, server.port.number);
                    let diagnostic = Diagnostic::error(Code::ConflictingGateways, message);
                    world.say(
                        r,
                        diagnostic,
                        format!("spec.servers[{s}].hosts"),
                        "give each Gateway hosts of its own, or make them one",
                    );
                }
            }
        }
    }
}
