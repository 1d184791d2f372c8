//! `status` of a Gateway: its listeners one by one, then the whole.

use super::super::gateway_api::AttachedRoutes;
use super::super::status::{Condition, Fault, fault, told};
use super::certificates::{Secrets, server_tls};
use super::plan::{Plan, ServerPlan, Wire, name_of};
use super::{GATEWAY_NAME_LABEL, hostname, secret};
use crate::config::compile::Compiler;
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::gateway_api::{GROUP, Gateway, Listener, TlsMode};
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use crate::snapshot::Enrolment;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Kinds of routes that an HTTP listener takes.
const KINDS: [&str; 2] = ["GRPCRoute", "HTTPRoute"];
/// `GatewayStatus.addresses`: `maxItems`.
const MOST_ADDRESSES: usize = 16;

/// Of the pods that serve a Gateway, by its namespace and name.
pub(in super::super) type Addresses = BTreeMap<(Arc<str>, Arc<str>), BTreeSet<IpAddr>>;

/// What is wrong with one listener, by condition.
#[derive(Debug, Default)]
struct Faults {
    accepted: Option<Fault>,
    resolved: Option<Fault>,
    conflicted: Option<Fault>,
}

impl Compiler {
    /// Secrets that Gateways name which are ours to judge, whether their pods run on this node or not.
    pub fn judged_secrets(&self) -> impl Iterator<Item = ObjectKey> {
        let ours = self.gateways.plans.iter().filter(|(key, _)| {
            let Some(Object::Gateway(gateway)) = self.index.get(key).map(|r| &r.object) else { return false };
            self.is_answered_for(&gateway.spec.gateway_class_name)
        });
        let servers = ours.flat_map(|(_, (_, plan))| &plan.servers);
        let credentials = servers.flat_map(|server| match &server.wire {
            Wire::Https(tls) => tls.credentials.as_slice(),
            _ => &[],
        });
        let secret = |namespace: &Arc<str>, name: &Arc<str>| ObjectKey::new(Kind::Secret, namespace, name);
        credentials.filter_map(move |c| Some(secret(c.namespace.as_ref()?, &c.name)))
    }

    pub(in super::super) fn gateway_addresses(&self) -> Addresses {
        let mut addresses = Addresses::new();
        for pod in self.snapshot.workloads() {
            let Some(gateway) = pod.labels.get(GATEWAY_NAME_LABEL) else { continue };
            // One without an address yet serves nobody.
            if !pod.ips.is_empty() && !matches!(pod.enrolment, Enrolment::Outside { .. }) {
                let of = addresses.entry((Arc::clone(&pod.key.namespace), Arc::clone(gateway))).or_default();
                of.extend(pod.ips.iter());
            }
        }
        addresses
    }

    pub(in super::super) fn gateway_status(
        &self,
        r: &Resource,
        gateway: &Gateway,
        attached: &AttachedRoutes,
        addresses: &Addresses,
    ) -> Value {
        let name = name_of(&r.key);
        let plan = self.gateways.plans.get(&r.key).map(|(_, plan)| plan);
        let pods = addresses.get(&(Arc::clone(&r.key.namespace), Arc::clone(&r.key.name)));
        let no_pods: Option<Fault> = pods.is_none().then(|| {
            let label = format!("{GATEWAY_NAME_LABEL}={}", r.key.name);
            (
                "NoResources",
                format!("no pod in the mesh serves it: label some in namespace {} {label}", r.key.namespace),
            )
        });
        let mut invalid = 0;
        let listeners: Vec<Value> = gateway
            .spec
            .listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| {
                let faults = self.faults(r, gateway, plan, i, listener);
                let bad = faults.accepted.as_ref().or(faults.conflicted.as_ref()).or(faults.resolved.as_ref());
                invalid += usize::from(bad.is_some());
                let not_programmed = bad.map(|(_, message)| ("Invalid", message.clone()));
                let pending = no_pods.as_ref().map(|(_, message)| ("Pending", message.clone()));
                let kinds = kinds(listener).map(|kind| json!({"group": GROUP, "kind": kind}));
                let conflicted = faults.accepted.as_ref().or(faults.conflicted.as_ref());
                json!({
                    "name": listener.name,
                    "supportedKinds": kinds.collect::<Vec<_>>(),
                    "attachedRoutes": attached.get(&(Arc::clone(&name), Arc::clone(&listener.name))).unwrap_or(&0),
                    "conditions": [
                        Condition::of("Accepted", "Accepted", conflicted, r),
                        Condition::trouble("Conflicted", "NoConflicts", faults.conflicted.as_ref(), r),
                        Condition::of("Programmed", "Programmed", not_programmed.or(pending).as_ref(), r),
                        Condition::of("ResolvedRefs", "ResolvedRefs", faults.resolved.as_ref(), r),
                    ],
                })
            })
            .collect();
        let all = gateway.spec.listeners.len();
        let message = format!("{invalid} of {all} listeners cannot be served as written");
        let fault = (invalid > 0).then_some(("ListenersNotValid", message));
        let accepted = match &fault {
            // Some are served: the Gateway is accepted, and says that not all are.
            Some((reason, message)) if invalid < all => {
                Condition { message: message.clone(), ..Condition::of("Accepted", reason, None, r) }
            }
            fault => Condition::of("Accepted", "Accepted", fault.as_ref(), r),
        };
        let none = (invalid == all).then(|| ("Invalid", "no listener can be served".to_owned()));
        let programmed = Condition::of("Programmed", "Programmed", none.or(no_pods).as_ref(), r);
        let addresses = pods.into_iter().flatten().take(MOST_ADDRESSES);
        let addresses: Vec<Value> =
            addresses.map(|address| json!({"type": "IPAddress", "value": address.to_string()})).collect();
        json!({"addresses": addresses, "conditions": [accepted, programmed], "listeners": listeners})
    }

    fn faults(&self, r: &Resource, gateway: &Gateway, plan: Option<&Plan>, i: usize, listener: &Listener) -> Faults {
        let at = format!("spec.listeners[{i}]");
        let mut faults = Faults { conflicted: conflict(&gateway.spec.listeners, i), ..Faults::default() };
        let of = |d: &&Diagnostic| d.field.strip_prefix(&*at).is_some_and(|rest| rest.starts_with('.'));
        if let Some(refused) = plan.and_then(|plan| plan.found.iter().find(of)) {
            if refused.field.ends_with(".protocol") {
                faults.accepted = Some(("UnsupportedProtocol", told(refused)));
            } else {
                let reason = fault(refused, &["RefNotPermitted", "InvalidCertificateRef"]);
                faults.resolved = Some(reason.unwrap_or_else(|| ("InvalidCertificateRef", told(refused))));
            }
        }
        let server = plan.and_then(|plan| plan.servers.iter().find(|server| server.at == at));
        faults.resolved = faults.resolved.or_else(|| self.certificates(r, server?)).or_else(|| unknown_kinds(listener));
        faults
    }

    /// What is wrong with the Secrets that a listener names.
    fn certificates(&self, r: &Resource, server: &ServerPlan) -> Option<Fault> {
        let Wire::Https(tls) = &server.wire else { return None };
        let get = |key: &ObjectKey| secret(self.index.get(key)?).cloned();
        let (mut asked, mut found) = (BTreeSet::new(), Vec::new());
        let namespace = &r.key.namespace;
        server_tls(tls, &mut Secrets { get: &get, pods: namespace, gateway: namespace, asked: &mut asked }, &mut found);
        Some(("InvalidCertificateRef", told(found.first()?)))
    }
}

/// Of the kinds that are allowed, those that are supported.
fn kinds(listener: &Listener) -> impl Iterator<Item = &'static str> {
    let http = matches!(&*listener.protocol, "HTTP" | "HTTPS");
    let kinds = &listener.allowed_routes.kinds;
    let allows = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| &*k.group == GROUP && &*k.kind == kind);
    KINDS.into_iter().filter(move |kind| http && allows(kind))
}

fn unknown_kinds(listener: &Listener) -> Option<Fault> {
    let kinds = &listener.allowed_routes.kinds;
    let unknown = kinds.iter().find(|k| &*k.group != GROUP || !KINDS.contains(&&*k.kind))?;
    let message = format!("allowedRoutes names {} ({}); there are {}", unknown.kind, unknown.group, KINDS.join(", "));
    Some(("InvalidRouteKinds", message))
}

/// A listener before this one that it cannot stand beside (`ListenerConditionConflicted`): the earlier one is served.
fn conflict(listeners: &[Listener], i: usize) -> Option<Fault> {
    let this = listeners.get(i)?;
    let before = listeners.get(..i)?.iter().filter(|other| other.port == this.port);
    before.into_iter().find_map(|other| {
        let name = &other.name;
        if wire(other) != wire(this) {
            return Some((
                "ProtocolConflict",
                format!("listener {name} has port {} for {}", this.port, other.protocol),
            ));
        }
        let message = || format!("listener {name} has port {} and hostname {}", this.port, hostname(this));
        (hostname(other) == hostname(this)).then(|| ("HostnameConflict", message()))
    })
}

/// Listeners of one port are told apart by SNI or by `Host`, not by both.
fn wire(listener: &Listener) -> (bool, bool) {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    (matches!(&*listener.protocol, "HTTPS" | "TLS"), &*listener.protocol == "HTTP" && !passthrough)
}
