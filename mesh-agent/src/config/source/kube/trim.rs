//! What is kept of an object: the fields that are read, nothing else. Pure.
//!
//! Invariant: two versions of an object that differ only in what is not read are equal after trimming, so that a kubelet's
//! heartbeat or a controller's bookkeeping changes nothing and costs nothing further on.

use crate::config::compile::NETNS_ANNOTATION;
use crate::config::resource::Kind;
use serde_json::{Map, Value};

const METADATA: &[&str] =
    &["name", "namespace", "uid", "labels", "annotations", "creationTimestamp", "deletionTimestamp", "ownerReferences"];
const SECRET: &[&str] = &["tls.crt", "tls.key", "ca.crt", "cert", "key", "cacert"];

/// Drops what is not read. `node` is this agent's: other nodes' pods run no container here that could have a port.
pub(super) fn trim(kind: Kind, object: &mut Value, node: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        let generation = meta.remove("generation").filter(|_| has_status(kind));
        keep(meta, METADATA);
        meta.extend(generation.map(|generation| ("generation".to_owned(), generation)));
        inner(meta, "annotations", |annotations| annotations.retain(|name, _| is_read(name)));
        // None left is the same as none there.
        meta.retain(|_, value| value.as_object().is_none_or(|fields| !fields.is_empty()));
        each(meta, "ownerReferences", |owner| keep(owner, &["kind", "name", "controller"]));
        if kind == Kind::Node {
            inner(meta, "labels", |labels| labels.retain(|name, _| is_topology(name)));
        }
    }
    match kind {
        Kind::Namespace | Kind::Node => keep(fields, &["apiVersion", "kind", "metadata"]),
        Kind::Pod => pod(fields, node),
        Kind::EndpointSlice => each(fields, "endpoints", |endpoint| {
            keep(endpoint, &["addresses", "conditions", "nodeName", "zone", "targetRef"]);
            inner(endpoint, "targetRef", |to| keep(to, &["kind", "name", "namespace"]));
        }),
        Kind::Secret => {
            keep(fields, &["apiVersion", "kind", "metadata", "data"]);
            inner(fields, "data", |data| keep(data, SECRET));
        }
        Kind::ConfigMap => {
            keep(fields, &["apiVersion", "kind", "metadata", "data"]);
            inner(fields, "data", |data| keep(data, &["mesh"]));
        }
        _ => {
            fields.remove("status");
        }
    }
}

fn pod(fields: &mut Map<String, Value>, node: &str) {
    keep(fields, &["apiVersion", "kind", "metadata", "spec", "status"]);
    inner(fields, "spec", |spec| {
        let own = spec.get("nodeName").and_then(Value::as_str).is_none_or(|name| name == node);
        if own {
            keep(spec, &["nodeName", "serviceAccountName", "hostNetwork", "containers", "initContainers"]);
        } else {
            keep(spec, &["nodeName", "serviceAccountName", "hostNetwork"]);
        }
        for containers in ["containers", "initContainers"] {
            each(spec, containers, |container| keep(container, &["name", "ports"]));
        }
    });
    inner(fields, "status", |status| {
        keep(status, &["phase", "podIP", "podIPs", "conditions"]);
        if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
            conditions.retain(|condition| condition.get("type").and_then(Value::as_str) == Some("Ready"));
        }
        each(status, "conditions", |condition| keep(condition, &["type", "status"]));
    });
}

/// Istio's and ours. Whoever may edit a pod must not tell the agent which network namespace to enter.
fn is_read(annotation: &str) -> bool {
    let domain = annotation.split('/').next().unwrap_or_default();
    (domain.ends_with("istio.io") || domain == "undermesh.dev") && annotation != NETNS_ANNOTATION
}

/// `status.conditions[].observedGeneration` is written of these.
fn has_status(kind: Kind) -> bool {
    matches!(kind, Kind::GatewayClass | Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute)
}

fn is_topology(label: &str) -> bool {
    label.starts_with("topology.") || label.starts_with("failure-domain.")
}

fn keep(of: &mut Map<String, Value>, names: &[&str]) {
    of.retain(|name, _| names.contains(&name.as_str()));
}

fn inner(of: &mut Map<String, Value>, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(Value::Object(inner)) = of.get_mut(name) {
        change(inner);
    }
}

fn each(of: &mut Map<String, Value>, name: &str, change: impl Fn(&mut Map<String, Value>)) {
    if let Some(Value::Array(items)) = of.get_mut(name) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(change);
    }
}
