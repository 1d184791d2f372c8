//! Compiled Sidecars: which hosts a workload may reach, and what becomes of the others (SEMANTICS §8 "Sidecar").

use super::lookup::is_subset;
use super::route::RuleRef;
use super::{Client, Snapshot};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one Sidecar says about outbound traffic.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct EgressScope {
    pub namespace: Arc<str>,
    /// `workloadSelector`; empty: the whole namespace.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub rule: RuleRef,
    /// `egress`; empty where the Sidecar has none: everything.
    pub listeners: Vec<EgressListener>,
    /// `None`: the mesh's.
    pub outbound: Option<OutboundPolicy>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct EgressListener {
    /// `None`: every port.
    pub port: Option<u16>,
    pub hosts: Vec<ScopedHost>,
}

/// `namespace/host` of `egress.hosts`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ScopedHost {
    pub namespace: ScopedNamespace,
    /// FQDN, `*.suffix` or `*`.
    pub host: Arc<str>,
    /// `~ns/host`: takes away what others give.
    pub exclude: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScopedNamespace {
    Any,
    /// The Sidecar's own (`.`).
    Own,
    Named(Arc<str>),
    Nothing,
}

/// `outboundTrafficPolicy.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// Unknown destinations are reached as if there were no mesh.
    #[default]
    AllowAny,
    /// Unknown destinations are refused: HTTP 502, TCP reset.
    RegistryOnly,
}

impl EgressScope {
    /// Whether a host of a namespace may be reached on a port.
    pub fn allows(&self, namespace: &str, host: &str, port: u16) -> bool {
        // A listener with the port takes the port's traffic from those without (Istio's catch-all listener).
        let own = self.listeners.iter().find(|l| l.port == Some(port));
        let Some(listener) = own.or_else(|| self.listeners.iter().find(|l| l.port.is_none())) else {
            return self.listeners.is_empty();
        };
        let covers = |scoped: &ScopedHost| {
            let here = match &scoped.namespace {
                ScopedNamespace::Any => true,
                ScopedNamespace::Own => *self.namespace == *namespace,
                ScopedNamespace::Named(name) => **name == *namespace,
                ScopedNamespace::Nothing => false,
            };
            here && covers_host(&scoped.host, host)
        };
        listener.hosts.iter().any(|h| !h.exclude && covers(h)) && !listener.hosts.iter().any(|h| h.exclude && covers(h))
    }
}

/// `*.foo.com` covers `a.b.foo.com`, not `foo.com`.
pub fn covers_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

impl Snapshot {
    /// The Sidecar that holds for a client: by selector, else its namespace's, else the root namespace's.
    pub fn egress(&self, client: &Client<'_>, root_namespace: &str) -> Option<&Arc<EgressScope>> {
        let of = |namespace: &str| self.sidecars.get(namespace).map_or(&[][..], |list| &list[..]);
        let own = of(client.namespace);
        own.iter()
            .find(|scope| !scope.selector.is_empty() && is_subset(&scope.selector, client.labels))
            .or_else(|| own.iter().find(|scope| scope.selector.is_empty()))
            .or_else(|| of(root_namespace).iter().find(|scope| scope.selector.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_scope() {
        let host = |namespace, host: &str, exclude| ScopedHost { namespace, host: host.into(), exclude };
        let scope = EgressScope {
            namespace: "shop".into(),
            selector: BTreeMap::new(),
            rule: RuleRef { object: None, field: "".into() },
            listeners: vec![EgressListener {
                port: None,
                hosts: vec![
                    host(ScopedNamespace::Own, "*", false),
                    host(ScopedNamespace::Named("prod".into()), "*.svc.cluster.local", false),
                    host(ScopedNamespace::Any, "secret.prod.svc.cluster.local", true),
                ],
            }],
            outbound: None,
        };
        assert!(scope.allows("shop", "cart.shop.svc.cluster.local", 80));
        assert!(scope.allows("prod", "a.prod.svc.cluster.local", 80));
        assert!(!scope.allows("prod", "secret.prod.svc.cluster.local", 80));
        assert!(!scope.allows("other", "a.other.svc.cluster.local", 80));
    }
}
