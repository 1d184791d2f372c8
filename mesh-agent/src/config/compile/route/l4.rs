//! `tls` and `tcp` rules (SEMANTICS §4).

use super::{Defaults, Found, Rule, action, matcher};
use crate::config::resource::Resource;
use crate::config::resource::istio::virtual_service::{RouteDestination, Spec, TcpMatch};
use crate::snapshot::route::{Backend, HeaderOps};
use crate::snapshot::{L4Routes, TcpRoute, TlsRoute, covers_host};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn compile(
    r: &Resource,
    spec: &Spec,
    gateways: &[Arc<str>],
    defaults: &Defaults,
    found: &mut Vec<Found>,
) -> L4Routes {
    let mut compiled = L4Routes::default();
    let hosts = super::hosts_of(spec, &r.key.namespace, &defaults.domain);
    for (i, one) in spec.tls.iter().enumerate() {
        let mut rule = Rule { key: &r.key, at: format!("spec.tls[{i}]"), gateways, defaults, found: Vec::new() };
        if one.r#match.is_empty() {
            rule.error("match", "a tls rule without match never holds", "add match with sniHosts");
        }
        let backends = backends(&one.route, &mut rule);
        for (m, tls) in one.r#match.iter().enumerate() {
            let at = format!("match[{m}]");
            let mut sni = Vec::new();
            for (n, name) in tls.sni_hosts.iter().enumerate() {
                let name: Arc<str> = name.to_ascii_lowercase().into();
                // "must be a subset of the corresponding virtual service's hosts"
                if hosts.iter().any(|h| **h == *name || covers_host(h, &name)) {
                    sni.push(name);
                } else {
                    let message = format!("{name} is not among the VirtualService's hosts; it is left out");
                    rule.error(&format!("{at}.sniHosts[{n}]"), message, "add it to spec.hosts");
                }
            }
            let subnets = subnets(&tls.destination_subnets, &at, &mut rule);
            let port = port(tls.port, &at, &mut rule);
            let (Some(subnets), Some(port), false) = (subnets, port, sni.is_empty()) else { continue };
            let conditions = matcher::conditions(port, &tls.source_namespace, &tls.source_labels, &tls.gateways, &rule);
            let reference = rule.reference(&format!(".{at}"));
            compiled.tls.push(TlsRoute { rule: reference, conditions, sni, subnets, backends: backends.clone() });
        }
        found.extend(rule.found.into_iter().map(|d| (None, d)));
    }
    for (i, one) in spec.tcp.iter().enumerate() {
        let mut rule = Rule { key: &r.key, at: format!("spec.tcp[{i}]"), gateways, defaults, found: Vec::new() };
        let backends = backends(&one.route, &mut rule);
        let every = [TcpMatch::default()];
        let matches = if one.r#match.is_empty() { &every[..] } else { &one.r#match[..] };
        for (m, tcp) in matches.iter().enumerate() {
            let at = format!("match[{m}]");
            let subnets = subnets(&tcp.destination_subnets, &at, &mut rule);
            let port = port(tcp.port, &at, &mut rule);
            let (Some(subnets), Some(port)) = (subnets, port) else { continue };
            let conditions = matcher::conditions(port, &tcp.source_namespace, &tcp.source_labels, &tcp.gateways, &rule);
            let part = if one.r#match.is_empty() { String::new() } else { format!(".{at}") };
            let reference = rule.reference(&part);
            compiled.tcp.push(TcpRoute { rule: reference, conditions, subnets, backends: backends.clone() });
        }
        found.extend(rule.found.into_iter().map(|d| (None, d)));
    }
    compiled
}

fn backends(route: &[RouteDestination], rule: &mut Rule<'_>) -> Vec<Backend> {
    if route.is_empty() {
        rule.error("route", "no destination; connections are closed", "add route");
    }
    let several = route.len() > 1;
    let mut found = Vec::new();
    for (i, one) in route.iter().enumerate() {
        let at = format!("route[{i}]");
        let Some(weight) = action::weight(one.weight, several, &at, rule) else { continue };
        let to = action::backend(&one.destination, &format!("{at}.destination"), rule);
        found.push(Backend { weight, to, headers: HeaderOps::default(), mirrors: Vec::new() });
    }
    found
}

/// None where one cannot be read: the match would be wider without it.
fn subnets(list: &[Arc<str>], at: &str, rule: &mut Rule<'_>) -> Option<Vec<IpNet>> {
    let mut found = Vec::new();
    for (i, text) in list.iter().enumerate() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net) => found.push(net),
            Err(_) => {
                let field = format!("{at}.destinationSubnets[{i}]");
                rule.error(
                    &field,
                    format!("{text:?} is no subnet; the match is left out"),
                    "write an address, or a prefix such as 10.1.2.0/24",
                );
                return None;
            }
        }
    }
    Some(found)
}

fn port(number: i64, at: &str, rule: &mut Rule<'_>) -> Option<Option<u16>> {
    match u16::try_from(number) {
        Ok(0) => Some(None),
        Ok(port) => Some(Some(port)),
        Err(_) => {
            let message = format!("{number} is not a port number; the match is left out");
            rule.error(&format!("{at}.port"), message, "write a number from 1 to 65535");
            None
        }
    }
}
