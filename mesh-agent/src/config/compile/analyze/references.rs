//! Names of things that are not there: hosts, subsets, gateways (IST0101), and ports that must be said (IST0112).

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::virtual_service::Spec;
use crate::config::resource::istio::wire::Destination;
use crate::config::resource::{Kind, ObjectKey, Resource};
use crate::snapshot::route::MESH;
use crate::snapshot::{Client, Service, wildcards};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    for (r, spec) in world.virtual_services() {
        gateways(world, r, spec);
        for (i, http) in spec.http.iter().enumerate() {
            let at = format!("spec.http[{i}]");
            for (n, route) in http.route.iter().enumerate() {
                destination(world, r, &route.destination, &format!("{at}.route[{n}].destination"));
            }
            if let Some(mirror) = &http.mirror {
                destination(world, r, mirror, &format!("{at}.mirror"));
            }
            for (n, mirror) in http.mirrors.iter().enumerate() {
                destination(world, r, &mirror.destination, &format!("{at}.mirrors[{n}].destination"));
            }
        }
        let tls = spec.tls.iter().enumerate().map(|(i, tls)| (format!("spec.tls[{i}]"), &tls.route));
        let tcp = spec.tcp.iter().enumerate().map(|(i, tcp)| (format!("spec.tcp[{i}]"), &tcp.route));
        for (at, route) in tls.chain(tcp) {
            for (n, one) in route.iter().enumerate() {
                destination(world, r, &one.destination, &format!("{at}.route[{n}].destination"));
            }
        }
    }
    for (r, spec) in world.destination_rules() {
        let host = world.fqdn(&spec.host, r);
        if !spec.host.contains('*') && service(world, r, &host).is_none() {
            let message = format!("no Service or ServiceEntry has the host {host}: the rule has no effect");
            let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
            world.say(
                r,
                diagnostic,
                "spec.host",
                "add the Service, or correct the host (name.namespace.svc.cluster.local)",
            );
        }
    }
}

fn gateways(world: &mut World<'_>, r: &Resource, spec: &Spec) {
    let named = spec.gateways.iter().enumerate().map(|(i, name)| (format!("spec.gateways[{i}]"), name));
    let matched = spec.http.iter().enumerate().flat_map(|(h, http)| {
        http.r#match.iter().enumerate().flat_map(move |(m, one)| {
            let at = move |(i, name)| (format!("spec.http[{h}].match[{m}].gateways[{i}]"), name);
            one.gateways.iter().enumerate().map(at)
        })
    });
    for (field, name) in named.chain(matched).filter(|(_, name)| &***name != MESH) {
        let full = super::super::names::gateway(name, &r.key.namespace);
        let Some((namespace, name)) = full.split_once('/') else { continue };
        let key = ObjectKey::new(Kind::IstioGateway, namespace, name);
        if world.compiler.index.get(&key).is_none() {
            let message = format!("there is no Gateway {full}");
            let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
            world.say(r, diagnostic, field, "add the Gateway, or correct the name (namespace/name)");
        }
    }
}

fn destination(world: &mut World<'_>, r: &Resource, to: &Destination, at: &str) {
    if to.host.is_empty() || to.host.contains('*') {
        return;
    }
    let host = world.fqdn(&to.host, r);
    let Some(service) = service(world, r, &host).cloned() else {
        let message = format!("no Service or ServiceEntry has the host {host}: its share is answered 503 (NC)");
        let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
        let fix = "add the Service, or correct the host (a name with a dot is taken as it is)";
        return world.say(r, diagnostic, format!("{at}.host"), fix);
    };
    if !to.subset.is_empty() && !has_subset(world, r, &service, &to.subset) {
        let message = format!(
            "no DestinationRule for {host} that this namespace sees has a subset {}: its share is answered 503 (NC)",
            to.subset
        );
        let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
        let fix = format!("add a DestinationRule for {host} with the subset, or correct its name");
        world.say(r, diagnostic, format!("{at}.subset"), fix);
    }
    match to.port.map(|port| port.number) {
        None | Some(0) if service.ports.len() > 1 => {
            let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
            let message = format!(
                "{host} has the ports {}: without one here, requests go to the port the client asked for",
                ports.join(", ")
            );
            let diagnostic = Diagnostic::info(Code::VirtualServiceDestinationPortSelectorRequired, message);
            world.say(r, diagnostic, format!("{at}.port"), "write port: {number: …} if one of them is meant");
        }
        Some(number) if number != 0 && service.ports.iter().all(|p| i64::from(p.port) != number) => {
            let message = format!("{host} has no port {number}: its share is answered 503 (NC)");
            let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
            world.say(r, diagnostic, format!("{at}.port.number"), "write a port of the Service, not of its pods");
        }
        _ => {}
    }
}

/// The Service of a host as the namespace of the object sees it.
fn service<'a>(world: &World<'a>, r: &Resource, host: &str) -> Option<&'a Arc<Service>> {
    let labels = BTreeMap::new();
    let client = Client { namespace: &r.key.namespace, labels: &labels };
    world.compiler.snapshot.service_by_host(&client, host)
}

/// In any rule that some client of the namespace may meet: which one it meets is decided by its labels.
fn has_subset(world: &World<'_>, r: &Resource, service: &Service, subset: &str) -> bool {
    let snapshot = &world.compiler.snapshot;
    let wider = wildcards(&service.host).flat_map(|host| snapshot.destination_policies_of(&host).iter());
    let mut all = snapshot.destination_policies_of(&service.host).iter().chain(wider);
    all.any(|policy| {
        policy.export.visible_to(&policy.namespace, &r.key.namespace)
            && policy.subsets.iter().any(|s| &*s.name == subset)
    })
}
