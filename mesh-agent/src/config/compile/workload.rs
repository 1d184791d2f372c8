//! Pod → Workload: owner, identity, addresses, locality, and whether it is in the mesh.

use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Labels, Meta, Pod, Resource};
use crate::snapshot::{Enrolment, Locality, NetnsPlace, OutsideReason, Owner, Workload, WorkloadKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Set by the lab: the path of the pod's network namespace. A pod without it is found by its UID.
pub const NETNS_ANNOTATION: &str = "undermesh.dev/netns";
/// `enabled` or `disabled`, on a namespace (label) or a pod (label or annotation); stronger than Istio's.
pub const MESH_LABEL: &str = "undermesh.dev/mesh";

/// What a pod's compilation reads beside the pod.
pub(super) struct Surroundings<'a> {
    /// This agent's node; empty where there is only one.
    pub(super) node: &'a str,
    /// The pod's Namespace's labels; none where there is no such object.
    pub(super) namespace_labels: Option<&'a Labels>,
    /// The pod's Node's labels.
    pub(super) node_labels: Option<&'a Labels>,
}

pub(super) fn compile(
    r: &Resource,
    pod: &Pod,
    ips: Vec<IpAddr>,
    around: &Surroundings<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Workload {
    Workload {
        key: key(r),
        owner: owner(&r.meta),
        service_account: if pod.spec.service_account_name.is_empty() {
            "default".into()
        } else {
            Arc::clone(&pod.spec.service_account_name)
        },
        node: Arc::clone(&pod.spec.node_name),
        labels: r.meta.labels.clone(),
        ips,
        locality: around.node_labels.map(locality).unwrap_or_default(),
        enrolment: enrolment(&r.meta, pod, around, diagnostics),
    }
}

pub(super) fn key(r: &Resource) -> WorkloadKey {
    WorkloadKey { namespace: Arc::clone(&r.key.namespace), name: Arc::clone(&r.key.name), uid: Arc::clone(&r.meta.uid) }
}

/// `status.podIPs`, else `status.podIP`; those that are none are named.
pub(super) fn ips(pod: &Pod, diagnostics: &mut Vec<Diagnostic>) -> Vec<IpAddr> {
    let listed = pod.status.pod_ips.iter().enumerate().map(|(i, ip)| (format!("status.podIPs[{i}].ip"), &ip.ip));
    let single = pod.status.pod_ips.is_empty().then(|| ("status.podIP".to_owned(), &pod.status.pod_ip));
    let mut ips = Vec::new();
    for (field, text) in listed.chain(single).filter(|(_, text)| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) if !ips.contains(&ip.to_canonical()) => ips.push(ip.to_canonical()),
            Ok(_) => {}
            Err(_) => diagnostics.push(not_an_address(field, text)),
        }
    }
    ips
}

pub(super) fn not_an_address(field: impl Into<String>, text: &str) -> Diagnostic {
    Diagnostic::error(Code::BadAddress, format!("{text:?} is not an IP address; it is left out"))
        .field(field)
        .fix("write an IPv4 or IPv6 address without port or prefix length")
}

/// A finished pod, and one on the host's network, does not own its address.
pub(super) fn owns_addresses(pod: &Pod) -> bool {
    !pod.spec.host_network && !is_finished(pod)
}

pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(&*pod.status.phase, "Succeeded" | "Failed")
}

/// Kubernetes' well-known topology labels; Istio's for the third level.
pub(super) fn locality(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Locality {
    let label = |name: &str, former: &str| labels.get(name).or_else(|| labels.get(former)).cloned().unwrap_or_default();
    Locality {
        region: label(Locality::REGION, "failure-domain.beta.kubernetes.io/region"),
        zone: label(Locality::ZONE, "failure-domain.beta.kubernetes.io/zone"),
        subzone: label(Locality::SUBZONE, ""),
    }
}

/// The controller that a user wrote: a ReplicaSet of a Deployment stands for the Deployment.
fn owner(meta: &Meta) -> Owner {
    let reference = meta.owner_references.iter().find(|o| o.controller).or(meta.owner_references.first());
    let Some(reference) = reference else { return Owner { kind: "Pod".into(), name: Arc::clone(&meta.name) } };
    if &*reference.kind == "ReplicaSet"
        && let Some(hash) = meta.labels.get("pod-template-hash")
        && let Some(name) = reference.name.strip_suffix(&**hash).and_then(|name| name.strip_suffix('-'))
        && !name.is_empty()
    {
        return Owner { kind: "Deployment".into(), name: name.into() };
    }
    Owner { kind: Arc::clone(&reference.kind), name: Arc::clone(&reference.name) }
}

fn enrolment(meta: &Meta, pod: &Pod, around: &Surroundings<'_>, diagnostics: &mut Vec<Diagnostic>) -> Enrolment {
    let outside = |reason| Enrolment::Outside { reason };
    if is_finished(pod) {
        return outside(OutsideReason::Finished);
    }
    let wanted = wanted(meta, around.namespace_labels);
    if pod.spec.host_network {
        if wanted.is_ok() {
            diagnostics.push(
                Diagnostic::info(
                    Code::HostNetwork,
                    "hostNetwork: the pod shares the node's network and stays outside the mesh",
                )
                .field("spec.hostNetwork")
                .fix(format!("remove hostNetwork, or label the pod {MESH_LABEL}: disabled to say that this is meant")),
            );
        }
        return outside(OutsideReason::HostNetwork);
    }
    if let Err(reason) = wanted {
        return outside(reason);
    }
    let node = &*pod.spec.node_name;
    if !node.is_empty() && !around.node.is_empty() && node != around.node {
        return Enrolment::Elsewhere;
    }
    match meta.annotations.get(NETNS_ANNOTATION) {
        Some(netns) if netns.starts_with('/') => {
            Enrolment::Enrolled { netns: NetnsPlace::Path(PathBuf::from(&**netns)) }
        }
        Some(_) => {
            diagnostics.push(
                Diagnostic::error(Code::BadAnnotation, "not an absolute path; the pod stays outside the mesh")
                    .field(format!("metadata.annotations[{NETNS_ANNOTATION}]"))
                    .fix("write the path of the pod's network namespace, such as /run/netns/NAME"),
            );
            outside(OutsideReason::NoNetns)
        }
        None if !meta.uid.is_empty() => Enrolment::Enrolled { netns: NetnsPlace::Pod(Arc::clone(&meta.uid)) },
        None => {
            diagnostics.push(
                Diagnostic::info(
                    Code::NoNetns,
                    "in the mesh by its labels, but its network namespace is not known yet",
                )
                .field(format!("metadata.annotations[{NETNS_ANNOTATION}]"))
                .fix("none needed where the CNI fills it in; in files, write the path of the network namespace"),
            );
            outside(OutsideReason::NoNetns)
        }
    }
}

/// The pod's own word is stronger than its namespace's, ours is stronger than Istio's.
fn wanted(meta: &Meta, namespace: Option<&Labels>) -> Result<(), OutsideReason> {
    let pod = |name: &str| meta.labels.get(name).or_else(|| meta.annotations.get(name)).map(|v| &**v);
    let namespace = |name: &str| namespace.and_then(|labels| labels.get(name)).map(|v| &**v);
    match pod(MESH_LABEL) {
        Some("enabled" | "true") => return Ok(()),
        Some("disabled" | "false") => return Err(OutsideReason::OptedOut),
        _ => {}
    }
    match (pod("istio.io/dataplane-mode"), pod("sidecar.istio.io/inject")) {
        (Some("none"), _) | (None, Some("false")) => return Err(OutsideReason::OptedOut),
        (Some("ambient"), _) => return Ok(()),
        // Istio's webhook does not look at pods of a namespace that says `disabled`.
        (_, Some("true")) if namespace("istio-injection") != Some("disabled") => return Ok(()),
        (_, Some("false")) => return Err(OutsideReason::OptedOut),
        _ => {}
    }
    let enabled = match namespace(MESH_LABEL) {
        Some("enabled" | "true") => true,
        Some("disabled" | "false") => false,
        _ => {
            namespace("istio.io/dataplane-mode") == Some("ambient")
                || match namespace("istio-injection") {
                    Some(value) => value == "enabled",
                    None => namespace("istio.io/rev").is_some_and(|rev| !rev.is_empty()),
                }
        }
    };
    if enabled { Ok(()) } else { Err(OutsideReason::NamespaceNotLabelled) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect()
    }

    #[test]
    fn enrolment_by_labels() {
        use OutsideReason::{NamespaceNotLabelled, OptedOut};
        let injected: &[(&str, &str)] = &[("istio-injection", "enabled")];
        let ambient: &[(&str, &str)] = &[("istio.io/dataplane-mode", "ambient")];
        for (namespace, pod, want) in [
            (&[][..], &[][..], Err(NamespaceNotLabelled)),
            (injected, &[], Ok(())),
            (ambient, &[], Ok(())),
            (&[("istio.io/rev", "stable")], &[], Ok(())),
            (&[("undermesh.dev/mesh", "enabled")], &[], Ok(())),
            (&[("istio-injection", "enabled"), ("undermesh.dev/mesh", "disabled")], &[], Err(NamespaceNotLabelled)),
            (injected, &[("sidecar.istio.io/inject", "false")], Err(OptedOut)),
            (ambient, &[("istio.io/dataplane-mode", "none")], Err(OptedOut)),
            (injected, &[("undermesh.dev/mesh", "disabled")], Err(OptedOut)),
            (&[], &[("sidecar.istio.io/inject", "true")], Ok(())),
            (&[("istio-injection", "disabled")], &[("sidecar.istio.io/inject", "true")], Err(NamespaceNotLabelled)),
            (&[], &[("istio.io/dataplane-mode", "ambient")], Ok(())),
        ] {
            let meta = Meta { labels: labels(pod), ..Meta::default() };
            assert_eq!(wanted(&meta, Some(&labels(namespace))), want, "{namespace:?} {pod:?}");
            let meta = Meta { annotations: labels(pod), ..Meta::default() };
            assert_eq!(wanted(&meta, Some(&labels(namespace))), want, "annotations {namespace:?} {pod:?}");
        }
        assert_eq!(wanted(&Meta::default(), None), Err(NamespaceNotLabelled));
    }

    #[test]
    fn a_replica_sets_pod_is_its_deployments() {
        let reference = crate::config::resource::OwnerReference {
            kind: "ReplicaSet".into(),
            name: "reviews-v1-7d9c".into(),
            controller: true,
        };
        let mut meta = Meta { name: "p".into(), owner_references: vec![reference], ..Meta::default() };
        assert_eq!(&*owner(&meta).name, "reviews-v1-7d9c");
        meta.labels = labels(&[("pod-template-hash", "7d9c")]);
        assert_eq!(owner(&meta), Owner { kind: "Deployment".into(), name: "reviews-v1".into() });
        meta.owner_references.clear();
        assert_eq!(owner(&meta), Owner { kind: "Pod".into(), name: "p".into() });
    }
}
