//! Hosts that nobody declared and only VirtualServices know: they are served on port 80, whatever address DNS gives
//! them (SEMANTICS §3).
//!
//! Invariant: kept as rules and Services come and go; a change costs the labels of its host.

use super::route::{Family, MESH, VirtualHost, Visibility};
use super::{Map, Snapshot, wildcards};
use std::sync::Arc;

/// Where they are served.
pub const RULED_PORT: u16 = 80;

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Ruled {
    /// Hosts as VirtualServices write them.
    hosts: imbl::OrdSet<Arc<str>>,
    /// `*.suffix`es → how many Services' hosts each covers.
    covered: Map<Arc<str>, usize>,
}

impl Snapshot {
    /// Hosts that only VirtualServices know, in order of name.
    pub fn ruled_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ruled.hosts.iter()
    }

    /// Whether connections to addresses that nobody declared may be for a host that only VirtualServices know.
    pub fn serves_ruled_hosts(&self) -> bool {
        !self.ruled.hosts.is_empty()
    }

    /// Whether rules hold for names that no Service has: a wildcard's do where it covers no Service at all, else they are
    /// for those Services (Istio's virtual hosts of sidecars). What a RequestPolicy alone says leads nowhere by itself.
    pub(crate) fn serves_strangers(&self, rules: &VirtualHost) -> bool {
        let wild = rules.host.starts_with('*');
        rules.family != Family::Default && (!wild || self.ruled.hosts.contains(&rules.host))
    }

    /// A Service with this host came (`up`) or went; `hosts` says so already.
    pub(super) fn recount_ruled(&mut self, host: &Arc<str>, up: bool) {
        for wide in wildcards(host).map(|wide| Arc::<str>::from(&*wide)) {
            let count = self.ruled.covered.get(&wide).copied().unwrap_or(0);
            match if up { count + 1 } else { count.saturating_sub(1) } {
                0 => self.ruled.covered.remove(&wide),
                count => self.ruled.covered.insert(Arc::clone(&wide), count),
            };
            self.settle_ruled(&wide);
        }
        self.settle_ruled(host);
    }

    /// The host's rules, or its Services, changed.
    pub(super) fn settle_ruled(&mut self, host: &Arc<str>) {
        let declared = !self.hosts.exact(host).is_empty() || self.ruled.covered.contains_key(&**host);
        if !declared && self.virtual_hosts.exact(host).iter().any(|rules| is_for_pods(rules)) {
            self.ruled.hosts.insert(Arc::clone(host));
        } else {
            self.ruled.hosts.remove(host);
        }
    }
}

/// Somebody wrote them, and some pod may see them. Routes of the Gateway API are about Services.
fn is_for_pods(rules: &VirtualHost) -> bool {
    let in_mesh = || rules.routes.iter().any(|route| route.conditions.gateways.iter().any(|g| **g == *MESH));
    rules.family == Family::Istio && rules.export != Visibility::Nobody && in_mesh()
}
