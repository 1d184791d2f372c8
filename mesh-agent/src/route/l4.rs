//! Which route takes a connection whose bytes are not looked into (SEMANTICS §4). Gateways ask the same functions.

use super::{Facts, holds};
use crate::snapshot::{L4Routes, TcpRoute, TlsRoute, covers_host};
use ipnet::IpNet;
use std::net::IpAddr;

/// Of the `tls` routes that hold, the one with the most specific name; of equals the first.
///
/// `to`: the address that the client asked for, where it is known. `sni`: lower case.
pub fn tls<'r>(
    routes: impl IntoIterator<Item = &'r L4Routes>,
    facts: &Facts<'_>,
    to: Option<IpAddr>,
    sni: &str,
) -> Option<&'r TlsRoute> {
    let all = routes.into_iter().flat_map(|routes| &routes.tls);
    let named = all.filter(|tls| holds(&tls.conditions, facts) && inside(&tls.subnets, to)).filter_map(|tls| {
        let names = tls.sni.iter().filter(|name| covers_host(name, sni));
        Some((names.map(|name| (!name.starts_with('*'), name.len())).max()?, tls))
    });
    // `max_by_key` would take the last of equals.
    named.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, tls)| tls)
}

/// The first `tcp` route that holds.
pub fn tcp<'r>(
    routes: impl IntoIterator<Item = &'r L4Routes>,
    facts: &Facts<'_>,
    to: Option<IpAddr>,
) -> Option<&'r TcpRoute> {
    let mut all = routes.into_iter().flat_map(|routes| &routes.tcp);
    all.find(|tcp| holds(&tcp.conditions, facts) && inside(&tcp.subnets, to))
}

/// Without subnets: anywhere. With some, an address that nobody knows is in none of them.
fn inside(subnets: &[IpNet], to: Option<IpAddr>) -> bool {
    subnets.is_empty() || to.is_some_and(|to| subnets.iter().any(|net| net.contains(&to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Client;
    use crate::snapshot::route::{Conditions, MESH, RuleRef};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn rule(name: &str) -> RuleRef {
        RuleRef { object: None, field: name.into() }
    }

    fn conditions(port: Option<u16>, label: Option<&str>) -> Conditions {
        let source_labels = label.map(|app| ("app".into(), app.into())).into_iter().collect();
        Conditions { port, source_labels, gateways: vec![MESH.into()], ..Conditions::default() }
    }

    #[test]
    fn the_longest_name_wins_over_order() {
        let tls = |name: &str, sni: &[&str], port| TlsRoute {
            rule: rule(name),
            conditions: conditions(port, None),
            sni: sni.iter().map(|s| (*s).into()).collect(),
            subnets: Vec::new(),
            backends: Vec::new(),
        };
        let routes = L4Routes {
            tls: vec![
                tls("any", &["*"], None),
                tls("wild", &["*.b.example", "x.example"], None),
                tls("again", &["*.b.example"], None),
                tls("exact", &["a.b.example"], None),
                tls("other port", &["x.example"], Some(9)),
            ],
            tcp: Vec::new(),
        };
        let labels = BTreeMap::new();
        let facts = Facts { port: 443, client: Client { namespace: "n", labels: &labels }, gateway: MESH };
        let of = |sni: &str| super::tls([&routes], &facts, None, sni).map(|r| r.rule.field.to_string());
        for (sni, want) in
            [("a.b.example", "exact"), ("c.b.example", "wild"), ("x.example", "wild"), ("b.example", "any")]
        {
            assert_eq!(of(sni).as_deref(), Some(want), "{sni}");
        }
        let elsewhere = Facts { gateway: "ns/gw", ..facts };
        assert!(super::tls([&routes], &elsewhere, None, "x.example").is_none());
    }

    #[test]
    fn the_first_tcp_route_that_holds() {
        let tcp = |name: &str, conditions, subnets: &[&str]| TcpRoute {
            rule: rule(name),
            conditions,
            subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
            backends: Vec::new(),
        };
        let routes = L4Routes {
            tls: Vec::new(),
            tcp: vec![
                tcp("subnet", conditions(None, None), &["10.1.0.0/16", "fd00::/8"]),
                tcp("canary", conditions(None, Some("canary")), &[]),
                tcp("port", conditions(Some(5432), None), &[]),
            ],
        };
        let canary: BTreeMap<Arc<str>, Arc<str>> = [("app".into(), "canary".into())].into();
        let none = BTreeMap::new();
        let of = |port, labels, to: &str| {
            let facts = Facts { port, client: Client { namespace: "n", labels }, gateway: MESH };
            super::tcp([&routes], &facts, to.parse().ok()).map(|r| r.rule.field.to_string())
        };
        assert_eq!(of(1, &none, "10.1.2.3").as_deref(), Some("subnet"));
        assert_eq!(of(1, &none, "fd00::1").as_deref(), Some("subnet"));
        assert_eq!(of(1, &canary, "10.2.0.1").as_deref(), Some("canary"));
        assert_eq!(of(5432, &none, "").as_deref(), Some("port"));
        assert_eq!(of(1, &none, "10.2.0.1"), None);
    }
}
