//! A Gateway's servers, of either family, in one form: what is wanted of one port, before routes and certificates.

use crate::config::diagnostic::Diagnostic;
use crate::config::resource::ObjectKey;
use crate::snapshot::covers_host;
use crate::snapshot::gateway::{TlsFiles, TlsVersion};
use crate::snapshot::is_subset;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One Gateway object.
#[derive(Debug)]
pub(super) struct Plan {
    /// `namespace/name`
    pub(super) name: Arc<str>,
    pub(super) pods: PodSelector,
    pub(super) servers: Vec<ServerPlan>,
    pub(super) found: Vec<Diagnostic>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodSelector {
    /// `None`: any (Istio).
    pub(super) namespace: Option<Arc<str>>,
    /// Empty: none.
    pub(super) labels: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Debug)]
pub(super) struct ServerPlan {
    /// `spec.servers[0]`, `spec.listeners[0]`
    pub(super) at: String,
    pub(super) port: u16,
    pub(super) wire: Wire,
    pub(super) hosts: Vec<ServerHost>,
    /// `httpsRedirect`
    pub(super) redirect: bool,
    /// Gateway API: whose routes it has.
    pub(super) listener: Option<Arc<str>>,
}

/// `[namespace/]host` of a server; routes of other namespaces do not meet it.
#[derive(Debug)]
pub(super) struct ServerHost {
    /// `None`: any.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) host: Arc<str>,
}

#[derive(Debug)]
pub(super) enum Wire {
    Http,
    Https(TlsPlan),
    /// TLS is terminated, the bytes inside are forwarded.
    Tls(TlsPlan),
    Passthrough,
    Tcp,
}

#[derive(Debug)]
pub(super) struct TlsPlan {
    pub(super) credentials: Vec<Credential>,
    pub(super) files: Option<TlsFiles>,
    pub(super) clients: ClientPlan,
    pub(super) min: TlsVersion,
    pub(super) max: TlsVersion,
}

/// A Secret by name.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    /// Field that names it.
    pub(super) at: String,
    /// `None`: the gateway pod's namespace, then the Gateway's (Istio).
    pub(super) namespace: Option<Arc<str>>,
    pub(super) name: Arc<str>,
}

#[derive(Debug)]
pub(super) enum ClientPlan {
    None,
    Optional(CaPlan),
    Required(CaPlan),
}

/// Where the anchors for client certificates are.
#[derive(Debug)]
pub(super) enum CaPlan {
    /// `TlsFiles::ca`
    Files,
    /// `ca.crt` of this Secret, or of that named `<name>-cacert` (Istio).
    Secret(Credential),
}

/// How connections of one port are told apart; servers of different kinds cannot share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortKind {
    Http,
    Tls,
    Tcp,
}

impl Plan {
    /// Of a Gateway that is not ours.
    pub(super) fn nothing(key: &ObjectKey) -> Self {
        let pods = PodSelector { namespace: None, labels: BTreeMap::new() };
        Self { name: name_of(key), pods, servers: Vec::new(), found: Vec::new() }
    }
}

impl Wire {
    pub(super) fn kind(&self) -> PortKind {
        match self {
            Self::Http => PortKind::Http,
            Self::Https(_) | Self::Tls(_) | Self::Passthrough => PortKind::Tls,
            Self::Tcp => PortKind::Tcp,
        }
    }
}

impl PodSelector {
    pub(super) fn selects(&self, namespace: &str, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        !self.labels.is_empty()
            && self.namespace.as_ref().is_none_or(|own| **own == *namespace)
            && is_subset(&self.labels, labels)
    }
}

/// What two host patterns have in common: the narrower one; `None`: nothing.
pub(in super::super) fn intersection(a: &Arc<str>, b: &Arc<str>) -> Option<Arc<str>> {
    if a == b || covers_host(b, a) { Some(Arc::clone(a)) } else { covers_host(a, b).then(|| Arc::clone(b)) }
}

/// `namespace/name`, as `gateways` and `parentRefs` name a Gateway.
pub(in super::super) fn name_of(key: &ObjectKey) -> Arc<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_common() {
        for (a, b, want) in [
            ("a.com", "a.com", Some("a.com")),
            ("*", "a.com", Some("a.com")),
            ("*.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.b.com", None),
            ("*", "*", Some("*")),
        ] {
            assert_eq!(intersection(&a.into(), &b.into()).as_deref(), want, "{a} {b}");
            assert_eq!(intersection(&b.into(), &a.into()).as_deref(), want, "{b} {a}");
        }
    }
}
