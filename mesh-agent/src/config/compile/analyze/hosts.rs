//! Hosts that several objects claim, or that no gateway serves (IST0109, IST0132).

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
                let older = format!("{winner} is older and has the host {host} too: for it this one has no effect");
                let younger = format!("{key} has the host {host} too: it is younger and has no effect for it");
                for (key, message) in [(key, older), (winner, younger)] {
                    let Some(r) = compiler.index.get(key) else { continue };
                    let at = spec_host(world, key, &host);
                    let diagnostic = Diagnostic::error(Code::ConflictingMeshGatewayVirtualServiceHosts, message);
                    let fix = "put the rules of both into one VirtualService, in the order that is meant";
                    world.say(r, diagnostic, at, fix);
                }
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
            let serves = |host: &&Arc<str>| {
                let full = world.fqdn(host, r);
                servers.iter().any(|server| {
                    let (ns, dns) = server.split_once('/').unwrap_or(("*", server));
                    let here = match ns {
                        "*" => true,
                        "." => *r.key.namespace == *namespace,
                        ns => ns == &*r.key.namespace,
                    };
                    here && intersects(dns, host, &full)
                })
            };
            // Several gateways may have a part of the hosts each.
            if !spec.hosts.is_empty() && !spec.hosts.iter().any(|host| serves(&host)) {
                let hosts = spec.hosts.join(", ");
                let message = format!("Gateway {full} has no server for {hosts}: through it this is never met");
                let diagnostic = Diagnostic::warning(Code::VirtualServiceHostNotFoundInGateway, message);
                let fix = "add the host to the Gateway's servers[].hosts, or remove the gateway here";
                world.say(r, diagnostic, format!("spec.gateways[{i}]"), fix);
            }
        }
    }
}

fn intersects(server: &str, host: &str, full: &str) -> bool {
    let cover = |a: &str, b: &str| a == b || a == "*" || b == "*" || covers_host(a, b) || covers_host(b, a);
    cover(server, host) || cover(server, full)
}
