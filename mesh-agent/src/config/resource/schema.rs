//! Field names of the parts of objects that we read whole, to find misspelt ones.
//!
//! Pod specs and templates are huge and mostly not ours: only `metadata` and the parts below are checked, so nothing
//! right is ever called wrong. Names are those of Kubernetes 1.36's API reference.

use super::Kind;
use serde_yaml_ng::Value;

const META: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];
const TOP: &[&str] = &["apiVersion", "kind", "metadata"];
const SERVICE_SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamily",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
    "type",
];
const SERVICE_PORT: &[&str] = &["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"];
const SUBSET: &[&str] = &["addresses", "notReadyAddresses", "ports"];
const SUBSET_ADDRESS: &[&str] = &["hostname", "ip", "nodeName", "targetRef"];
const DISCOVERY_PORT: &[&str] = &["appProtocol", "name", "port", "protocol"];
const SLICE_ENDPOINT: &[&str] =
    &["addresses", "conditions", "deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone"];
const CONDITIONS: &[&str] = &["ready", "serving", "terminating"];

/// A field the kind does not have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// `spec.ports[0].targetport`
    pub(crate) path: String,
    /// The field that was probably meant.
    pub(crate) meant: Option<&'static str>,
}

/// Every misspelt field of an object.
pub(crate) fn unknown_fields(kind: Kind, object: &Value) -> Vec<Unknown> {
    let mut found = Vec::new();
    let top: &[&str] = match kind {
        Kind::Endpoints => &["subsets"],
        Kind::EndpointSlice => &["addressType", "endpoints", "ports"],
        _ => &["spec", "status"],
    };
    let all: Vec<&'static str> = TOP.iter().chain(top).copied().collect();
    check(object, "", &all, &mut found);
    check_at(object, "", "metadata", META, &mut found);
    match kind {
        Kind::Service => {
            check_at(object, "", "spec", SERVICE_SPEC, &mut found);
            if let Some(spec) = object.get("spec") {
                check_each(spec, "spec.", "ports", SERVICE_PORT, &mut found);
            }
        }
        Kind::Endpoints => {
            check_each(object, "", "subsets", SUBSET, &mut found);
            for (i, subset) in items(object, "subsets") {
                let path = format!("subsets[{i}].");
                check_each(subset, &path, "addresses", SUBSET_ADDRESS, &mut found);
                check_each(subset, &path, "notReadyAddresses", SUBSET_ADDRESS, &mut found);
                check_each(subset, &path, "ports", DISCOVERY_PORT, &mut found);
            }
        }
        Kind::EndpointSlice => {
            check_each(object, "", "ports", DISCOVERY_PORT, &mut found);
            check_each(object, "", "endpoints", SLICE_ENDPOINT, &mut found);
            for (i, endpoint) in items(object, "endpoints") {
                check_at(endpoint, &format!("endpoints[{i}]."), "conditions", CONDITIONS, &mut found);
            }
        }
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::ReplicaSet
        | Kind::DaemonSet
        | Kind::Job => {}
    }
    found
}

fn items<'a>(parent: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    parent.get(field).and_then(Value::as_sequence).into_iter().flatten().enumerate()
}

fn check_at(parent: &Value, path: &str, field: &str, known: &[&'static str], found: &mut Vec<Unknown>) {
    if let Some(value) = parent.get(field) {
        check(value, &format!("{path}{field}."), known, found);
    }
}

fn check_each(parent: &Value, path: &str, field: &str, known: &[&'static str], found: &mut Vec<Unknown>) {
    for (i, item) in items(parent, field) {
        check(item, &format!("{path}{field}[{i}]."), known, found);
    }
}

fn check(value: &Value, path: &str, known: &[&'static str], found: &mut Vec<Unknown>) {
    let Some(map) = value.as_mapping() else { return };
    for name in map.keys().filter_map(Value::as_str).filter(|name| !known.contains(name)) {
        let meant = known.iter().copied().map(|k| (distance(name, k), k)).filter(|(d, _)| *d <= 2).min();
        found.push(Unknown { path: format!("{path}{name}"), meant: meant.map(|(_, k)| k) });
    }
}

/// Levenshtein distance, case-blind: `targetport` is 0 from `targetPort`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_fields_are_found_with_what_was_meant() {
        let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\nspec:\n  slector: {app: a}\n  ports:\n  - port: 80\n    targetport: 8080\n    whatever: 1\n";
        let value: Value = serde_yaml_ng::from_str(yaml).unwrap();
        let found = unknown_fields(Kind::Service, &value);
        let found: Vec<_> = found.iter().map(|u| (u.path.as_str(), u.meant)).collect();
        assert_eq!(
            found,
            [
                ("metadata.lables", Some("labels")),
                ("spec.slector", Some("selector")),
                ("spec.ports[0].targetport", Some("targetPort")),
                ("spec.ports[0].whatever", None),
            ]
        );
    }
}
