//! Compiled routes of connections whose bytes are not looked into: what VirtualServices say about TCP, and about TLS
//! that is passed through (SEMANTICS §4).

use super::Snapshot;
use super::lookup::{Client, first_visible, selects};
use super::route::{Backend, Conditions, RuleRef, Visibility};
use ipnet::IpNet;
use serde::Serialize;
use std::sync::Arc;

/// The connection routes of one host. A connection that no route takes goes to the Service itself.
#[derive(Debug, PartialEq, Serialize)]
pub struct L4Host {
    pub host: Arc<str>,
    pub namespace: Arc<str>,
    pub export: Visibility,
    pub routes: Arc<L4Routes>,
}

/// In the order in which they are tried; the first that holds takes the connection. One for each `match` entry.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct L4Routes {
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct TlsRoute {
    pub rule: RuleRef,
    pub conditions: Conditions,
    /// Lower case; exact or `*.suffix`. Never empty. The longest that matches wins over order.
    pub sni: Vec<Arc<str>>,
    /// Of the original destination; empty: any.
    pub subnets: Vec<IpNet>,
    pub backends: Vec<Backend>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct TcpRoute {
    pub rule: RuleRef,
    pub conditions: Conditions,
    pub subnets: Vec<IpNet>,
    pub backends: Vec<Backend>,
}

impl L4Routes {
    pub fn is_empty(&self) -> bool {
        self.tls.is_empty() && self.tcp.is_empty()
    }
}

impl Snapshot {
    /// The connection routes that hold for `host` (a Service's, or a ClientHello's SNI) and a client in the mesh.
    pub fn l4_host(&self, client: &Client<'_>, host: &str, port: u16) -> Option<&Arc<L4Host>> {
        let scope = self.egress(client, &self.mesh().root_namespace);
        let selected = |h: &&Arc<L4Host>| selects(scope, &h.namespace, &h.host, port);
        let mut candidates = self.l4_hosts.covering(host);
        candidates
            .find_map(|c| first_visible(c.iter().filter(selected), |h| (&h.export, &h.namespace), client.namespace))
    }

    /// All that speak about a host, whoever sees them.
    pub fn l4_hosts_about(&self, host: &str) -> impl Iterator<Item = &Arc<L4Host>> {
        self.l4_hosts.covering(host).flatten()
    }

    /// All of a host's candidates, in order of age.
    pub fn set_l4_hosts(&mut self, host: &Arc<str>, candidates: Vec<Arc<L4Host>>) {
        self.l4_hosts.set(host, candidates);
    }

    /// Those of exactly this host.
    pub fn l4_hosts_of(&self, host: &str) -> &[Arc<L4Host>] {
        self.l4_hosts.exact(host)
    }

    pub fn l4_hosts(&self) -> impl Iterator<Item = &Arc<L4Host>> {
        self.l4_hosts.all()
    }
}
