//! Which route takes a connection whose bytes are not looked into (SEMANTICS §4). Gateways ask the same functions.

use super::{Facts, Mismatch, matching};
use crate::snapshot::route::{Backend, Conditions, RuleRef};
use crate::snapshot::{L4Routes, TcpRoute, TlsRoute, covers_host};
use ipnet::IpNet;
use std::net::IpAddr;

/// A rule for connections, of either kind.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'r> {
    Tls(&'r TlsRoute),
    Tcp(&'r TcpRoute),
}

/// How well a name fits; the more the better: exact before wildcard, then by length.
type Fit = (bool, usize);

impl<'r> Rule<'r> {
    pub fn reference(self) -> &'r RuleRef {
        match self {
            Self::Tls(tls) => &tls.rule,
            Self::Tcp(tcp) => &tcp.rule,
        }
    }

    pub fn conditions(self) -> &'r Conditions {
        match self {
            Self::Tls(tls) => &tls.conditions,
            Self::Tcp(tcp) => &tcp.conditions,
        }
    }

    pub fn subnets(self) -> &'r [IpNet] {
        match self {
            Self::Tls(tls) => &tls.subnets,
            Self::Tcp(tcp) => &tcp.subnets,
        }
    }

    pub fn backends(self) -> &'r [Backend] {
        match self {
            Self::Tls(tls) => &tls.backends,
            Self::Tcp(tcp) => &tcp.backends,
        }
    }
}

/// The rule of a gateway's server: by the name, where TLS is passed through.
pub fn of_server<'r>(
    routes: impl IntoIterator<Item = &'r L4Routes>,
    facts: &Facts<'_>,
    to: Option<IpAddr>,
    sni: Option<&str>,
) -> Option<Rule<'r>> {
    match sni {
        Some(sni) => tls(routes, facts, to, sni).map(Rule::Tls),
        None => tcp(routes, facts, to).map(Rule::Tcp),
    }
}

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
    let named = all.filter_map(|tls| Some((check_tls(tls, facts, to, sni).ok()?, tls)));
    // `max_by_key` would take the last of equals.
    named.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, tls)| tls)
}

/// The first `tcp` route that holds.
pub fn tcp<'r>(
    routes: impl IntoIterator<Item = &'r L4Routes>,
    facts: &Facts<'_>,
    to: Option<IpAddr>,
) -> Option<&'r TcpRoute> {
    routes.into_iter().flat_map(|routes| &routes.tcp).find(|tcp| check_tcp(tcp, facts, to).is_ok())
}

/// Whether the route may take the connection, and how well its name fits; else the first condition that does not hold.
///
/// # Errors
/// The near miss, for `explain`.
pub fn check_tls<'a>(
    tls: &'a TlsRoute,
    facts: &Facts<'a>,
    to: Option<IpAddr>,
    sni: &'a str,
) -> Result<Fit, Mismatch<'a>> {
    matching::conditions(&tls.conditions, facts)?;
    inside(&tls.subnets, to)?;
    let names = tls.sni.iter().filter(|name| covers_host(name, sni));
    let fit = names.map(|name| (!name.starts_with('*'), name.len())).max();
    fit.ok_or(Mismatch::ServerName { wanted: &tls.sni, found: sni })
}

/// As [`check_tls`].
///
/// # Errors
/// The near miss, for `explain`.
pub fn check_tcp<'a>(tcp: &'a TcpRoute, facts: &Facts<'a>, to: Option<IpAddr>) -> Result<(), Mismatch<'a>> {
    matching::conditions(&tcp.conditions, facts)?;
    inside(&tcp.subnets, to)
}

/// Without subnets: anywhere. With some, an address that nobody knows is in none of them.
fn inside(subnets: &[IpNet], to: Option<IpAddr>) -> Result<(), Mismatch<'_>> {
    let inside = subnets.is_empty() || to.is_some_and(|to| subnets.iter().any(|net| net.contains(&to)));
    if inside { Ok(()) } else { Err(Mismatch::Subnet { wanted: subnets, found: to }) }
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
