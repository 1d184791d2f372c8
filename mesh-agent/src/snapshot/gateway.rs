//! Compiled gateways: on which ports a gateway pod listens, and whose routes its requests meet (SEMANTICS §8, §11).
//!
//! All Gateways that select a pod, of both families, are merged: one [`Gateway`] for each set of them.

use super::lookup::without_port;
use super::route::VirtualHost;
use super::{L4Routes, Snapshot, WorkloadKey};
use crate::identity::{Certificate, TrustAnchors};
use rustc_hash::FxHashMap;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the pods of one set of Gateways do.
#[derive(Debug, PartialEq, Serialize)]
pub struct Gateway {
    /// `namespace/name` of each, oldest first. Never empty.
    pub names: Vec<Arc<str>>,
    /// In order of port, one for each.
    pub listeners: Vec<Arc<Listener>>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Listener {
    pub port: u16,
    pub servers: Servers,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Servers {
    /// HTTP or TCP as it comes.
    Plain(Arc<Server>),
    /// The ClientHello's SNI chooses; without one, `*`.
    Tls(HostTable<Arc<Server>>),
}

/// What becomes of one port's connections (with TLS: of those with one SNI).
#[derive(Debug, PartialEq, Serialize)]
pub struct Server {
    /// Under whose name (`namespace/name`) routes are matched (`Conditions::gateways`).
    pub gateway: Arc<str>,
    pub tls: Tls,
    pub app: App,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    None,
    Terminate(Arc<ServerTls>),
    /// To the endpoint as it is.
    Passthrough,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum App {
    /// A host without an entry is answered 404.
    Http(HostTable<Arc<VirtualHost>>),
    /// Connections: the first route that holds, in this order; with none they are closed.
    L4(Vec<Arc<L4Routes>>),
}

/// How TLS is terminated.
#[derive(Debug, PartialEq, Serialize)]
pub struct ServerTls {
    /// The first that fits the SNI and the client's algorithms; empty with `files`.
    pub certificates: Vec<Arc<Certificate>>,
    /// Secrets that were to bring one, each with the reason why it does not.
    pub missing: Vec<Arc<str>>,
    pub files: Option<TlsFiles>,
    pub clients: ClientCertificates,
    pub min: TlsVersion,
    pub max: TlsVersion,
}

/// Paths on the agent's node, read by `listen` and again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// For client certificates.
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// Not asked for.
    None,
    /// Verified where the client shows one; anchors of `TlsFiles::ca` where `None`.
    Optional(Option<Arc<TrustAnchors>>),
    Required(Option<Arc<TrustAnchors>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Values by host: exact, then the longest `*.suffix`, then `*`. A look-up parses the name and never searches.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTable<T> {
    exact: FxHashMap<Arc<str>, T>,
    /// `.example.com` for `*.example.com`
    suffixes: FxHashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: FxHashMap::default(), suffixes: FxHashMap::default(), any: None }
    }
}

impl<T> HostTable<T> {
    /// `host`: lower case; a name, `*.suffix` or `*`.
    pub fn insert(&mut self, host: &Arc<str>, value: T) {
        match host.strip_prefix('*') {
            Some("") => self.any = Some(value),
            Some(suffix) => {
                self.suffixes.insert(suffix.into(), value);
            }
            None => {
                self.exact.insert(Arc::clone(host), value);
            }
        }
    }

    /// `host`: lower case, without a port.
    pub fn get(&self, host: &str) -> Option<&T> {
        let suffix = || {
            let dots = host.match_indices('.').filter(|(dot, _)| *dot > 0);
            dots.filter_map(|(dot, _)| host.get(dot..)).find_map(|suffix| self.suffixes.get(suffix))
        };
        self.exact.get(host).or_else(suffix).or(self.any.as_ref())
    }

    /// In order of host.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        let exact = self.exact.iter().map(|(host, value)| (host.to_string(), value));
        let suffixes = self.suffixes.iter().map(|(suffix, value)| (format!("*{suffix}"), value));
        let all: BTreeMap<String, &T> = exact.chain(suffixes).chain(self.any.iter().map(|v| ("*".into(), v))).collect();
        all.into_iter()
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.any.is_none()
    }
}

impl<T: Serialize> Serialize for HostTable<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter())
    }
}

impl Gateway {
    pub fn listener(&self, port: u16) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.port == port)
    }
}

impl Listener {
    /// The server for a connection, by its SNI where it has one; `None`: it is closed.
    pub fn server(&self, sni: Option<&str>) -> Option<&Arc<Server>> {
        match &self.servers {
            Servers::Plain(server) => Some(server),
            Servers::Tls(table) => table.get(&canonical(sni.unwrap_or_default())),
        }
    }
}

impl Server {
    /// The routes for a request's `Host` or `:authority`; `None`: 404.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        match &self.app {
            App::Http(table) => table.get(&canonical(without_port(authority))),
            App::L4(_) => None,
        }
    }
}

/// Hosts are compared without case and without the root's dot (RFC 4343, RFC 1034 §3.1).
fn canonical(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

impl Snapshot {
    /// What a pod does as a gateway; `None` for all other pods.
    pub fn gateway(&self, pod: &WorkloadKey) -> Option<&Arc<Gateway>> {
        self.gateways.get(pod)
    }

    /// The listener behind a port of a gateway pod.
    pub fn gateway_listener(&self, pod: &WorkloadKey, port: u16) -> Option<&Arc<Listener>> {
        self.gateway(pod)?.listener(port)
    }

    pub fn gateways(&self) -> impl Iterator<Item = (&WorkloadKey, &Arc<Gateway>)> {
        self.gateways.iter()
    }

    pub fn set_gateway(&mut self, pod: &WorkloadKey, gateway: Option<Arc<Gateway>>) {
        match gateway {
            Some(gateway) => self.gateways.insert(pod.clone(), gateway),
            None => self.gateways.remove(pod),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_is_found() {
        let mut table = HostTable::default();
        for host in ["*", "*.com", "*.b.com", "a.b.com"] {
            table.insert(&host.into(), host);
        }
        for (host, want) in [
            ("a.b.com", "a.b.com"),
            ("x.b.com", "*.b.com"),
            ("x.y.b.com", "*.b.com"),
            ("b.com", "*.com"),
            (".com", "*"),
            ("com", "*"),
            ("", "*"),
        ] {
            assert_eq!(table.get(host), Some(&want), "{host}");
        }
        assert_eq!(table.iter().map(|(host, _)| host).collect::<Vec<_>>(), ["*", "*.b.com", "*.com", "a.b.com"]);
        assert_eq!(HostTable::<u8>::default().get("a"), None);
    }

    #[test]
    fn authorities_are_compared_as_names() {
        for (authority, want) in [("Shop.Example.", "shop.example"), ("a", "a")] {
            assert_eq!(canonical(authority), want);
        }
    }
}
