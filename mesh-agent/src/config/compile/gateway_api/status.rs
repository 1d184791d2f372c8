//! `status.parents[]` of a route.

use super::super::status::{CONTROLLER, Condition, Fault, fault, told};
use super::spec::Spec;
use super::{Parent, parent_gateway, parent_service};
use crate::config::compile::Compiler;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::ParentRef;
use crate::config::resource::{Object, Resource};
use crate::snapshot::route::Conditions;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// `RouteReasonX` of a parent that does not take the route.
const NOT_TAKEN: &[&str] = &["NoMatchingParent", "NotAllowedByListeners", "NoMatchingListenerHostname"];
/// Of references, the one that is told before others first.
const UNRESOLVED: &[&str] = &["InvalidKind", "RefNotPermitted", "BackendNotFound", "UnsupportedProtocol"];

/// How many routes each listener has: `namespace/name` of the Gateway, listener.
pub(in super::super) type AttachedRoutes = BTreeMap<(Arc<str>, Arc<str>), usize>;

impl Compiler {
    pub(in super::super) fn attached_routes(&self) -> AttachedRoutes {
        let mut on: BTreeSet<(Arc<str>, Arc<str>, _)> = BTreeSet::new();
        for (key, attached) in &self.gateway_api.attached {
            for a in attached {
                let Parent::Gateway(gateway) = &a.parent else { continue };
                on.extend(a.listeners.iter().map(|(listener, _)| (Arc::clone(gateway), Arc::clone(listener), key)));
            }
        }
        let mut counts = AttachedRoutes::new();
        for (gateway, listener, _) in on {
            *counts.entry((gateway, listener)).or_default() += 1;
        }
        counts
    }

    /// `None`: no route. Without a parent of ours the list is empty: what we once wrote goes.
    pub(in super::super) fn route_status(&self, r: &Resource) -> Option<Value> {
        let spec = Spec::of(r)?;
        // Whatever the parents say: a route that is taken nowhere is told what else is wrong with it.
        let mut found = Vec::new();
        self.rules(r, &spec, &Conditions::default(), &mut found);
        let rules = rules_fault(&spec, &found);
        let unresolved = unresolved(&found);
        let parents = spec.parents.iter().filter_map(|parent| {
            let taken = self.taken(r, &spec, parent)?;
            let (refused, partly) = match (&taken, &rules) {
                (Some(fault), _) => (Some(fault), None),
                (None, Some((fault, true))) => (Some(fault), None),
                (None, Some((fault, false))) => (None, Some(fault)),
                (None, None) => (None, None),
            };
            let mut conditions = vec![
                Condition::of("Accepted", "Accepted", refused, r),
                Condition::of("ResolvedRefs", "ResolvedRefs", unresolved.as_ref(), r),
            ];
            conditions
                .extend(partly.map(|fault| Condition::trouble("PartiallyInvalid", "UnsupportedValue", Some(fault), r)));
            Some(json!({"parentRef": written(parent), "controllerName": CONTROLLER, "conditions": conditions}))
        });
        Some(json!({"parents": parents.collect::<Vec<_>>()}))
    }

    /// `None`: the parent is not ours to speak for. Inside: why it does not take the route.
    fn taken(&self, r: &Resource, spec: &Spec<'_>, parent: &ParentRef) -> Option<Option<Fault>> {
        if let Some(service) = parent_service(parent, &r.key.namespace) {
            let missing = match (self.declared_ports(&service), parent.port) {
                (None, _) => Some(format!("there is no Service {service}")),
                (Some(ports), Some(port)) if !ports.contains(&i64::from(port)) => {
                    Some(format!("Service {service} has no TCP port {port}"))
                }
                _ => None,
            };
            return Some(missing.map(|message| ("NoMatchingParent", message)));
        }
        let key = parent_gateway(parent, &r.key.namespace)?;
        // Whose Gateway it would be, nobody knows before it is there.
        let Object::Gateway(gateway) = &self.index.get(&key)?.object else { return None };
        if !self.is_answered_for(&gateway.spec.gateway_class_name) {
            return None;
        }
        let refused = self.listeners(r, spec, parent, &key).err().flatten();
        Some(refused.map(|d| fault(&d, NOT_TAKEN).unwrap_or_else(|| ("NoMatchingParent", told(&d)))))
    }
}

/// Rules that cannot be in force as written, and whether those are all.
fn rules_fault(spec: &Spec<'_>, found: &[Diagnostic]) -> Option<(Fault, bool)> {
    let unsupported = || found.iter().filter(|d| d.code == Code::UnsupportedFilter);
    let first = unsupported().next()?;
    let rule = |d: &Diagnostic| d.field.split_once(']').map(|(rule, _)| rule.to_owned());
    let rules: BTreeSet<String> = unsupported().filter_map(rule).collect();
    Some((("UnsupportedValue", told(first)), rules.len() >= spec.rules.len()))
}

fn unresolved(found: &[Diagnostic]) -> Option<Fault> {
    let references = found.iter().filter(|d| d.field.starts_with("spec.rules"));
    let faults: Vec<Fault> = references.filter_map(|d| fault(d, UNRESOLVED)).collect();
    let rank = |(reason, _): &&Fault| UNRESOLVED.iter().position(|known| known == reason);
    faults.iter().min_by_key(rank).cloned()
}

/// As the route writes it, which is how others find it again.
fn written(parent: &ParentRef) -> Value {
    let mut reference = json!({"group": parent.group, "kind": parent.kind, "name": parent.name});
    if let Some(fields) = reference.as_object_mut() {
        let mut add = |name: &str, value: Option<Value>| fields.extend(value.map(|value| (name.to_owned(), value)));
        add("namespace", parent.namespace.as_deref().map(Value::from));
        add("sectionName", parent.section_name.as_deref().map(Value::from));
        add("port", parent.port.map(Value::from));
    }
    reference
}
