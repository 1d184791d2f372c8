//! Which endpoints come first: Istio's `localityLbSetting` and Kubernetes' `trafficDistribution` (SEMANTICS §5
//! "Locality"). Pure; run when a cluster is made.

use super::Spec;
use crate::snapshot::policy::{Distribution, LocalityPolicy};
use crate::snapshot::{Endpoint, Locality, TrafficDistribution, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What of the client the order depends on. Clients with equal outlooks share their clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// All endpoints are equal.
    Anywhere,
    At(Locality),
    /// The values that the client has, or wants, for the labels of `failoverPriority`, in their order.
    Labels(Vec<(Arc<str>, Arc<str>)>),
}

/// Endpoints of equal standing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rank<'a> {
    /// 0 is filled first.
    pub(super) priority: u8,
    /// Share among ranks of one priority (`distribute`).
    pub(super) weight: u32,
    pub(super) members: Vec<&'a Endpoint>,
}

const REGION: &str = Locality::REGION;
const ZONE: &str = Locality::ZONE;
const SUBZONE: &str = Locality::SUBZONE;
const HOSTNAME: &str = "kubernetes.io/hostname";

impl Outlook {
    pub(super) fn of(spec: &Spec<'_>) -> Self {
        let Some(client) = spec.client else { return Self::Anywhere };
        // Without outlier detection nobody would ever fail over: Istio leaves all endpoints equal then.
        let on = |always: bool| always || spec.policy.outlier.is_some();
        let located = || {
            let known = !client.locality.region.is_empty();
            if known { Self::At(client.locality.clone()) } else { Self::Anywhere }
        };
        let seen_by = |key: &str| label(&client.labels, &client.locality, Some(client), key);
        match spec.locality().map(|locality| &**locality) {
            Some(LocalityPolicy::Off) => Self::Anywhere,
            Some(LocalityPolicy::Distribute(_)) => located(),
            Some(LocalityPolicy::Failover { always, .. }) if on(*always) => located(),
            Some(LocalityPolicy::Labels { keys, always }) if on(*always) => Self::Labels(
                keys.iter().map(|(key, want)| (key.clone(), want.clone().unwrap_or_else(|| seen_by(key)))).collect(),
            ),
            Some(LocalityPolicy::Failover { .. } | LocalityPolicy::Labels { .. }) => Self::Anywhere,
            None => {
                let keys: &[&str] = match spec.distribution {
                    Some(TrafficDistribution::SameZone) => &[REGION, ZONE],
                    Some(TrafficDistribution::SameNode) => &[REGION, ZONE, SUBZONE, HOSTNAME],
                    // The mesh's default is failover by closeness.
                    None if on(false) => return located(),
                    None => return Self::Anywhere,
                };
                Self::Labels(keys.iter().map(|key| ((*key).into(), seen_by(key))).collect())
            }
        }
    }

    /// The endpoints by priority, 0 to N without gaps.
    pub(super) fn ranks<'a>(&self, policy: Option<&LocalityPolicy>, endpoints: &[&'a Endpoint]) -> Vec<Rank<'a>> {
        let by = |priority: &dyn Fn(&Endpoint) -> usize| {
            let mut ranks = BTreeMap::<usize, Vec<_>>::new();
            for endpoint in endpoints {
                ranks.entry(priority(endpoint)).or_default().push(*endpoint);
            }
            let ranks = ranks.into_values().zip(0..);
            ranks.map(|(members, priority)| Rank { priority, weight: 1, members }).collect()
        };
        match (self, policy) {
            (Self::Anywhere, _) => by(&|_| 0),
            (Self::Labels(wanted), _) => by(&|endpoint| wanted.len() - matching(wanted, endpoint)),
            (Self::At(client), Some(LocalityPolicy::Distribute(rules))) => {
                match rules.iter().find(|rule| covers(&rule.from, client)) {
                    Some(rule) => distributed(rule, endpoints),
                    None => by(&|_| 0),
                }
            }
            (Self::At(client), Some(LocalityPolicy::Failover { regions, .. })) => {
                let to = regions.iter().find(|(from, _)| *from == client.region).map(|(_, to)| to);
                by(&|endpoint| match distance(client, &endpoint.locality) {
                    3 if to.is_some_and(|to| *to != endpoint.locality.region) => 4,
                    distance => distance,
                })
            }
            (Self::At(client), _) => by(&|endpoint| distance(client, &endpoint.locality)),
        }
    }
}

/// 0 same subzone, 1 same zone, 2 same region, 3 elsewhere.
fn distance(a: &Locality, b: &Locality) -> usize {
    let same = [a.region == b.region, a.zone == b.zone, a.subzone == b.subzone];
    3 - same.iter().take_while(|same| **same).count()
}

/// How many of the wanted labels match before the first one that does not.
fn matching(wanted: &[(Arc<str>, Arc<str>)], endpoint: &Endpoint) -> usize {
    let none = BTreeMap::new();
    let workload = endpoint.workload.as_deref();
    let labels = workload.map_or(&none, |workload| &workload.labels);
    wanted.iter().take_while(|(key, want)| label(labels, &endpoint.locality, workload, key) == *want).count()
}

/// A label, or what Istio would label its holder with; empty where there is nothing.
fn label(
    labels: &BTreeMap<Arc<str>, Arc<str>>,
    locality: &Locality,
    workload: Option<&Workload>,
    key: &str,
) -> Arc<str> {
    labels.get(key).cloned().unwrap_or_else(|| match key {
        HOSTNAME => workload.map_or_else(|| "".into(), |workload| workload.node.clone()),
        _ => locality.label(key).cloned().unwrap_or_default(),
    })
}

/// `region/zone/subzone`; a part that is `*` or missing covers everything.
fn covers(pattern: &str, locality: &Locality) -> bool {
    let mut parts = pattern.split('/');
    [&locality.region, &locality.zone, &locality.subzone].iter().all(|part| match parts.next() {
        None | Some("*" | "") => true,
        Some(wanted) => wanted == part.as_ref(),
    })
}

/// Each locality gets its share of the pattern that covers it; what no pattern covers gets nothing.
///
/// A pattern's share is divided by the weights of its endpoints, rounded up: 70 over localities of 1 and 2 is 24 and 47.
fn distributed<'a>(rule: &Distribution, endpoints: &[&'a Endpoint]) -> Vec<Rank<'a>> {
    let mut localities = BTreeMap::<(&str, &str, &str), Vec<&Endpoint>>::new();
    for endpoint in endpoints {
        let at = &endpoint.locality;
        localities.entry((&at.region, &at.zone, &at.subzone)).or_default().push(endpoint);
    }
    let mut patterns: Vec<(u64, Vec<Vec<&Endpoint>>)> = rule.to.iter().map(|(_, s)| (u64::from(*s), vec![])).collect();
    for members in localities.into_values() {
        let covering = rule.to.iter().position(|(to, _)| members.first().is_some_and(|e| covers(to, &e.locality)));
        if let Some((_, found)) = covering.and_then(|index| patterns.get_mut(index)) {
            found.push(members);
        }
    }
    let weigh = |members: &[&Endpoint]| members.iter().map(|e| u64::from(e.weight.max(1))).sum::<u64>();
    let mut ranks = Vec::new();
    for (share, found) in patterns {
        let total: u64 = found.iter().map(|members| weigh(members)).sum();
        for members in found {
            let weight = (weigh(&members) * share).div_ceil(total.max(1));
            ranks.push(Rank { priority: 0, weight: u32::try_from(weight).unwrap_or(u32::MAX), members });
        }
    }
    ranks
}

#[cfg(test)]
#[path = "tests/locality.rs"]
mod tests;
