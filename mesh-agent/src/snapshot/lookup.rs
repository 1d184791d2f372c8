//! What a client means by a host, and which objects speak about it for that client (SEMANTICS §1, §3, §5).
//!
//! Every function costs the same whatever the number of services: hosts are keys, names are parsed.

use super::policy::DestinationPolicy;
use super::route::{Family, VirtualHost, Visibility};
use super::{EgressScope, Map, ServiceName, Snapshot, covers_host};
use crate::snapshot::Service;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Who asks. Gateways ask as their own pod.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub namespace: &'a str,
    pub labels: &'a BTreeMap<Arc<str>, Arc<str>>,
}

/// Objects by the host they speak about, the most specific first: exact, then the longest `*.suffix`, then `*`.
#[derive(Debug)]
pub(super) struct ByHost<T>(Map<Arc<str>, Arc<[Arc<T>]>>);

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<T> Clone for ByHost<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PartialEq> PartialEq for ByHost<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> ByHost<T> {
    pub(super) fn set(&mut self, host: &Arc<str>, values: Vec<Arc<T>>) {
        if values.is_empty() {
            self.0.remove(host);
        } else {
            self.0.insert(Arc::clone(host), values.into());
        }
    }

    pub(super) fn exact(&self, host: &str) -> &[Arc<T>] {
        self.0.get(host).map_or(&[], |values| &values[..])
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().flat_map(|values| values.iter())
    }

    /// The values of every key that covers `host`, most specific key first.
    pub(super) fn covering<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a [Arc<T>]> + use<'a, 'h, T> {
        let wild = (!self.0.is_empty()).then(|| wildcards(host)).into_iter().flatten();
        let wild = wild.filter_map(|key| self.0.get(&*key)).map(|values| &values[..]);
        self.0.get(host).map(|values| &values[..]).into_iter().chain(wild)
    }
}

/// `*.b.c`, `*.c`, `*` for `a.b.c`; for `*.b.c` itself those that are wider.
pub fn wildcards(host: &str) -> impl Iterator<Item = Cow<'static, str>> + '_ {
    let base = host.strip_prefix("*.").unwrap_or(host);
    let suffixes = base.match_indices('.').map(move |(dot, _)| Cow::Owned(format!("*{}", &base[dot..])));
    suffixes.chain(std::iter::once(Cow::Borrowed("*")))
}

/// What a `Host` or `:authority` may mean for a client in `namespace`, likeliest first: canonical names without port.
///
/// `reviews` → `reviews.<ns>.svc.cluster.local`; `reviews.prod` → itself (an external name), then the Service.
pub fn host_names(authority: &str, namespace: &str, domain: &str) -> Vec<String> {
    let host = without_port(authority).trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() || as_ip(&host).is_some() {
        return Vec::new();
    }
    match host.split('.').count() {
        1 => vec![format!("{host}.{namespace}.svc.{domain}")],
        2 => vec![format!("{host}.svc.{domain}"), host],
        _ if host.ends_with(".svc") => vec![format!("{host}.{domain}"), host],
        _ => vec![host],
    }
    .into_iter()
    .rev()
    .collect()
}

/// `[::1]:80` → `[::1]`, `a:80` → `a`.
pub fn without_port(authority: &str) -> &str {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

/// The address that a host is, if it is one.
pub fn as_ip(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

impl Snapshot {
    /// The Service a host names for a client: its own namespace's before others', the oldest of those it can see.
    pub fn service_by_host(&self, client: &Client<'_>, host: &str) -> Option<&Arc<Service>> {
        let seen = |name: &ServiceName| {
            self.service(name).filter(|s| s.export.visible_to(&s.name.namespace, client.namespace))
        };
        let names = self.hosts.covering(host).find(|names| names.iter().any(|name| seen(name).is_some()))?;
        let own = names.iter().find(|name| &*name.namespace == client.namespace).and_then(|name| seen(name));
        own.or_else(|| names.iter().find_map(|name| seen(name)))
    }

    /// DestinationRules that speak about a host, whoever sees them.
    pub fn destination_policies_about(&self, host: &str) -> impl Iterator<Item = &Arc<DestinationPolicy>> {
        self.policies.covering(host).flatten()
    }

    /// Services that a touched host (FQDN or `*.suffix`) is about. Costs what they are in number for an FQDN.
    pub fn services_under(&self, host: &str) -> Vec<ServiceName> {
        if host.starts_with('*') {
            let covered = self.services().filter(|service| covers_host(host, &service.host));
            return covered.map(|service| service.name.clone()).collect();
        }
        self.hosts.exact(host).iter().map(|name| (**name).clone()).collect()
    }

    /// The routes that hold for a port of `host` (a canonical name) and a client in the mesh.
    pub fn virtual_host(&self, client: &Client<'_>, host: &str, port: u16) -> Option<&Arc<VirtualHost>> {
        let scope = self.egress(client, &self.mesh.root_namespace);
        self.virtual_hosts.covering(host).find_map(|candidates| {
            let speaks = |v: &VirtualHost| {
                let named = v.ports.is_empty() || v.ports.contains(&port);
                named && (v.family != Family::Istio || selects(scope, &v.namespace, &v.host, port))
            };
            let seen = candidates.iter().filter(|v| v.export.visible_to(&v.namespace, client.namespace) && speaks(v));
            // A VirtualService counts before an HTTPRoute for the same host, whatever their visibility. Candidates are
            // in order of age: `min_by_key` keeps the first of equals.
            seen.min_by_key(|v| (v.family, rank(&v.export, &v.namespace, client.namespace)))
        })
    }

    /// The DestinationRules that hold for `service` and a client: the client's namespace, else the Service's, else the
    /// root namespace; in each the most specific host (SEMANTICS §5 "Lookup").
    pub fn destination_policy(
        &self,
        client: &Client<'_>,
        service: &Service,
        root_namespace: &str,
    ) -> Option<&Arc<DestinationPolicy>> {
        let of = |namespace: &str, only_private: bool| {
            self.policies.covering(&service.host).find_map(|candidates| {
                let seen = candidates.iter().filter(|p| &*p.namespace == namespace);
                let seen = seen.filter(|p| p.export.visible_to(&p.namespace, client.namespace));
                let mut seen = seen.filter(|p| !only_private || p.export == Visibility::Private);
                let (mut selected, mut plain) = (None, None);
                for policy in &mut seen {
                    if policy.selector.is_empty() {
                        plain = plain.or(Some(policy));
                    } else if policy.namespace.as_ref() == client.namespace
                        && is_subset(&policy.selector, client.labels)
                    {
                        selected = selected.or(Some(policy));
                    }
                }
                selected.or(plain)
            })
        };
        of(client.namespace, client.namespace == root_namespace)
            .or_else(|| of(&service.name.namespace, false))
            .or_else(|| of(root_namespace, false))
    }
}

/// Whether the client's Sidecar lets a VirtualService hold for it: its `egress.hosts` name the VirtualService's namespace
/// and host as they name a Service's (SEMANTICS §3 "Which VS applies").
pub(super) fn selects(scope: Option<&Arc<EgressScope>>, namespace: &str, host: &str, port: u16) -> bool {
    scope.is_none_or(|scope| scope.allows(namespace, host, port))
}

/// The first candidate that the client sees, by rank and age.
pub(super) fn first_visible<'a, T: 'a>(
    candidates: impl Iterator<Item = &'a T>,
    of: impl Fn(&'a T) -> (&'a Visibility, &'a Arc<str>),
    client: &str,
) -> Option<&'a T> {
    let seen = candidates.filter(|c| of(c).0.visible_to(of(c).1, client));
    seen.min_by_key(|c| rank(of(c).0, of(c).1, client))
}

fn rank(export: &Visibility, namespace: &str, client: &str) -> u8 {
    if namespace == client && *export == Visibility::Private { 0 } else { export.rank().max(1) }
}

/// Whether every pair of `wanted` is in `labels`.
pub fn is_subset(wanted: &BTreeMap<Arc<str>, Arc<str>>, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_mean_what_istio_says() {
        let names = |host| host_names(host, "shop", "cluster.local");
        assert_eq!(names("reviews:9080"), ["reviews.shop.svc.cluster.local"]);
        assert_eq!(names("reviews.prod"), ["reviews.prod", "reviews.prod.svc.cluster.local"]);
        assert_eq!(names("reviews.prod.svc"), ["reviews.prod.svc", "reviews.prod.svc.cluster.local"]);
        assert_eq!(names("Reviews.prod.svc.cluster.local."), ["reviews.prod.svc.cluster.local"]);
        assert_eq!(names("10.0.0.1:80"), [""; 0]);
        assert_eq!(names("[::1]:80"), [""; 0]);
        assert_eq!(without_port("[fd00::1]:80"), "[fd00::1]");
        assert_eq!(without_port("fd00::1"), "fd00::1");
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let mut table = ByHost::default();
        for key in ["*", "*.com", "*.b.com", "a.b.com"] {
            table.set(&key.into(), vec![Arc::new(key)]);
        }
        let found = |host: &str| table.covering(host).map(|v| *v[0]).collect::<Vec<_>>();
        assert_eq!(found("a.b.com"), ["a.b.com", "*.b.com", "*.com", "*"]);
        assert_eq!(found("b.com"), ["*.com", "*"], "a wildcard never covers the bare suffix");
        assert_eq!(found("*.b.com"), ["*.b.com", "*.com", "*"].map(|s| s));
    }

    #[test]
    fn a_consumers_routes_hold_for_its_namespace_and_the_ports_it_names() {
        let host: Arc<str> = "a.shop.svc.cluster.local".into();
        let routes = |namespace: &str, export, ports: &[u16]| {
            Arc::new(VirtualHost {
                host: Arc::clone(&host),
                family: Family::GatewayApi,
                namespace: namespace.into(),
                export,
                ports: ports.to_vec(),
                routes: crate::snapshot::route::RouteTable::default(),
            })
        };
        let mut snapshot = Snapshot::default();
        let candidates = vec![routes("shop", Visibility::Public, &[]), routes("front", Visibility::Private, &[80, 81])];
        snapshot.set_virtual_hosts(&host, candidates);
        let labels = BTreeMap::new();
        let of = |namespace, port| {
            let found = snapshot.virtual_host(&Client { namespace, labels: &labels }, &host, port);
            found.map(|v| v.namespace.to_string())
        };
        assert_eq!(of("front", 80).as_deref(), Some("front"));
        assert_eq!(of("front", 90).as_deref(), Some("shop"));
        assert_eq!(of("back", 80).as_deref(), Some("shop"));
    }
}
