//! A rule's destination: the cluster under the policy that holds for the client, its endpoints and what is known of them.

use super::view::{Backend, Endpoint, Policy, Sent};
use super::{Asking, words};
use crate::balance::{self, Ask, Cluster, RequestFacts};
use crate::destination::Target;
use crate::error::Failure;
use crate::policy::timeout::Timeouts;
use crate::route::{Head, rewrite};
use crate::snapshot::policy::{Balancer, DestinationPolicy};
use crate::snapshot::route::{Backend as To, BackendTo, Destination, Forward, Route};
use crate::snapshot::{self, Service};
use http::{HeaderMap, header, request};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// A destination before its target is known.
pub(super) fn unknown(to: &To, port: u16, total: u64) -> Backend {
    let percent = if total == 0 { 0.0 } else { f64::from(to.weight) * 100.0 / total as f64 };
    let (name, subset) = match &to.to {
        BackendTo::Service(Destination { host, port: wanted, subset }) => {
            (format!("{host}:{}", wanted.unwrap_or(port)), subset.as_ref().map(ToString::to_string))
        }
        BackendTo::Refused { why, .. } => (why.to_string(), None),
    };
    let weight = to.weight;
    let (policy, endpoints) = (None, Vec::new());
    Backend { to: name, subset, weight, percent, sent: None, policy, endpoints, chosen: None, refusal: None }
}

impl Asking<'_> {
    /// Fills in what is known of a target. `affinity`: the request's hash. Some: why no endpoint can be chosen.
    pub(super) fn describe(&self, backend: &mut Backend, target: &Target, affinity: Option<u64>) -> Option<String> {
        let (snapshot, client) = (self.world.snapshot, self.client());
        backend.to = target.name.to_string();
        let service = snapshot.service_by_host(&client, &target.callee.host).filter(|s| s.host == target.callee.host);
        let rules = service.and_then(|s| snapshot.destination_policy(&client, s, &snapshot.mesh().root_namespace));
        backend.endpoints = self.endpoints(target, service);
        if affinity.is_some() {
            let ask = Ask { hash: affinity, now: self.world.now, ..Ask::default() };
            // A request with a key draws nothing.
            let chosen = target.cluster.pick(&ask, &mut fastrand::Rng::with_seed(0));
            backend.chosen = chosen.ok().map(|chosen| chosen.addr().addr());
        }
        backend.policy = Some(self.policy(target, service, rules, affinity));
        target.cluster.usable(self.world.now).is_err().then(|| self.no_endpoint(backend, service))
    }

    fn policy(
        &self,
        target: &Target,
        service: Option<&Arc<Service>>,
        rules: Option<&Arc<DestinationPolicy>>,
        hash: Option<u64>,
    ) -> Policy {
        let subset = target.cluster.key().subset.as_ref();
        let of_subset = rules.and_then(|rules| rules.subsets.iter().find(|s| Some(&s.name) == subset));
        let mut references: Vec<_> =
            rules.iter().flat_map(|rules| rules.rules.iter().map(|rule| self.reference(rule))).collect();
        references.extend(of_subset.map(|subset| self.reference(&subset.rule)));
        Policy {
            rules: references,
            shadowed: service.map_or_else(Vec::new, |service| self.shadowed_policies(service, rules)),
            balancer: words::word(&target.cluster.choice()),
            hash_key: match &target.policy.balancer {
                Balancer::ConsistentHash(hash) => Some(words::hash_key(&hash.key)),
                _ => None,
            },
            hash,
            settings: words::settings(&target.policy),
        }
    }

    /// The request's hash, where the policy wants one and the request has it. A cookie that the agent would make depends
    /// on the connection's port, so it is nobody's yet.
    pub(super) fn affinity(&self, target: &Target) -> Option<u64> {
        let Balancer::ConsistentHash(hash) = &target.policy.balancer else { return None };
        let own = self.workload.ips.first();
        let known = !matches!(hash.key, snapshot::policy::HashKey::SourceIp) || own.is_some();
        let parts = &self.asked.parts;
        let facts = RequestFacts {
            headers: &parts.headers,
            query: parts.uri.query(),
            client: SocketAddr::new(own.copied().unwrap_or(super::dial::SOMEWHERE), 0),
            local: self.address,
        };
        let affinity = balance::affinity(&hash.key, &facts);
        affinity.hash.filter(|_| known && affinity.set_cookie.is_none())
    }

    /// Every endpoint of the Service's port that belongs to the subset, asked or not.
    pub(super) fn endpoints(&self, target: &Target, service: Option<&Arc<Service>>) -> Vec<Endpoint> {
        let key = target.cluster.key();
        let listed = service.and_then(|s| s.ports.iter().find(|port| port.key == key.port));
        let labels = service.and_then(|service| self.subset_labels(service, key.subset.as_deref()));
        let belongs = |endpoint: &&snapshot::Endpoint| labels.is_none_or(|labels| endpoint.bears(labels));
        let Some(port) = listed else {
            return target
                .cluster
                .endpoints()
                .map(|(_, state)| self.endpoint(&target.cluster, state.addr, None))
                .collect();
        };
        let members = port.endpoints.endpoints.iter().filter(belongs);
        let mut rows: Vec<Endpoint> = members.map(|e| self.endpoint(&target.cluster, e.addr, Some(e))).collect();
        rows.sort_by_key(|row| (row.priority.unwrap_or(u8::MAX), row.address));
        rows
    }

    fn subset_labels(
        &self,
        service: &Service,
        subset: Option<&str>,
    ) -> Option<&std::collections::BTreeMap<Arc<str>, Arc<str>>> {
        let snapshot = self.world.snapshot;
        let rules = snapshot.destination_policy(&self.client(), service, &snapshot.mesh().root_namespace)?;
        rules.subsets.iter().find(|s| Some(&*s.name) == subset).map(|subset| &subset.labels)
    }

    fn endpoint(
        &self,
        cluster: &Cluster,
        addr: crate::addr::EndpointAddr,
        listed: Option<&snapshot::Endpoint>,
    ) -> Endpoint {
        let state = cluster.endpoints().find(|(_, state)| state.addr == addr || state.other == Some(addr));
        let ejected = state.and_then(|(_, state)| state.ejected_for(self.world.now));
        Endpoint {
            address: addr.addr(),
            workload: listed.and_then(|e| e.workload.as_ref()).map(|workload| workload.key.to_string()),
            locality: listed.map_or_else(String::new, |e| words::place(&e.locality)),
            weight: listed.map_or(1, |e| e.weight),
            health: listed.map_or_else(|| "ready".into(), |e| words::word(&e.health)),
            priority: state.map(|(priority, _)| priority),
            second: state.is_some_and(|(_, state)| state.addr != addr),
            ejected: ejected.is_some(),
            ejected_ms: ejected.map_or(0, words::millis),
            avoided: state.is_some_and(|(_, state)| state.is_avoided(self.world.now)),
            active: state.map_or(0, |(_, state)| state.active()),
            latency_ms: state.and_then(|(_, state)| state.latency()).map(|latency| latency.as_secs_f64() * 1e3),
        }
    }

    fn no_endpoint(&self, backend: &Backend, service: Option<&Arc<Service>>) -> String {
        let of = backend.subset.as_ref().map(|subset| format!(" subset {subset}")).unwrap_or_default();
        let count = |health: &str| backend.endpoints.iter().filter(|e| e.health == health).count();
        let (to, not_ready) = (&backend.to, count("notready"));
        if backend.endpoints.iter().any(|endpoint| endpoint.ejected) {
            format!("all endpoints of {to}{of} are ejected")
        } else if not_ready > 0 {
            format!("{to}{of} has {not_ready} endpoints, none of them ready")
        } else {
            match service.and_then(|service| self.subset_labels(service, backend.subset.as_deref())) {
                Some(labels) if !labels.is_empty() => {
                    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    format!("no pod of {to} has the labels of{of}: {}", labels.join(","))
                }
                _ => format!("{to}{of} has no endpoints"),
            }
        }
    }

    /// What the endpoint gets, where that is not what the client sent.
    pub(super) fn sent(&self, route: &Route, forward: &Forward, to: &To) -> Result<Option<Sent>, Failure> {
        let mut parts = self.asked.parts.clone();
        rewrite::request(&mut parts, route, forward, to)?;
        let (before, after) = (Head::of(&self.asked.parts), Head::of(&parts));
        let headers = differences(&self.asked.parts.headers, &parts.headers);
        let same = before.authority == after.authority && before.target == after.target && headers.is_empty();
        let sent = Sent { authority: after.authority.to_owned(), target: after.target.to_owned(), headers };
        Ok((!same).then_some(sent))
    }

    pub(super) fn target(&self, routes: &super::exchange::Routes<'_>, to: &To) -> Result<Rc<Target>, Failure> {
        match &to.to {
            BackendTo::Refused { status, .. } => Err(Failure::RefusedBackend(*status)),
            BackendTo::Service(to) => match routes.target {
                Some(target) if to.host.is_empty() => Ok(Rc::clone(target)),
                _ => self.destinations.backend(&self.source, &self.wants, to, routes.port),
            },
        }
    }
}

pub(super) fn timeouts(parts: &request::Parts, forward: &Forward) -> Timeouts {
    let per_try = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
    Timeouts::new(forward.timeout, per_try, &parts.headers)
}

fn differences(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let values = |headers: &HeaderMap, name: &header::HeaderName| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let other = |name: &&header::HeaderName| **name != header::HOST;
    let gone = before.keys().filter(other).filter(|name| !after.contains_key(*name)).map(|name| format!("-{name}"));
    let changed = after.keys().filter(other).filter(|name| values(before, name) != values(after, name));
    let new = changed.flat_map(|name| values(after, name).into_iter().map(move |value| format!("+{name}: {value}")));
    let mut all: Vec<String> = gone.chain(new).collect();
    all.sort();
    all
}
