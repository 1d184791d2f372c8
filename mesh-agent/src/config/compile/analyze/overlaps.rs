//! Sidecars and Telemetries that contest workloads, or have none (IST0101, IST0110, IST0111, IST0159, IST0160), or
//! only such as are not in the mesh (IST0167); labels that contest a namespace (IST0123).

use super::World;
use crate::config::compile::index::Age;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, Labels, Object, ObjectKey, Resource};
use crate::snapshot::{Enrolment, OutsideReason, Workload, is_subset};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    let sidecars = world.sidecars().into_iter();
    let sidecars = sidecars
        .map(|(r, spec)| Chosen::of(r, "spec.workloadSelector", spec.workload_selector.as_ref().map(|s| &s.labels)));
    let sidecars: Vec<_> = sidecars.collect();
    contested(
        world,
        &sidecars,
        Code::ConflictingSidecarWorkloadSelectors,
        Code::MultipleSidecarsWithoutWorkloadSelectors,
    );
    let telemetries = world.objects.iter().filter_map(|r| match &r.object {
        // What names its targets selects nothing by labels.
        Object::Telemetry(t) if t.spec.target_refs.is_empty() && t.spec.target_ref.is_none() => {
            Some(Chosen::of(r, "spec.selector", t.spec.selector.as_ref().map(|s| &s.labels)))
        }
        _ => None,
    });
    let telemetries: Vec<_> = telemetries.collect();
    contested(
        world,
        &telemetries,
        Code::ConflictingTelemetryWorkloadSelectors,
        Code::MultipleTelemetriesWithoutWorkloadSelectors,
    );
    for r in world.objects.clone().into_iter().filter(|r| r.key.kind == Kind::Namespace) {
        let label = |name: &str| r.meta.labels.get(name).filter(|value| !value.is_empty());
        let injection = label("istio-injection").filter(|value| &***value == "enabled");
        let others = ["istio.io/rev", "istio.io/dataplane-mode"].into_iter().filter(|name| label(name).is_some());
        // Any other value than `enabled` says that the namespace is not meant, whatever else it bears.
        let others = others.filter(|_| injection.is_some() || label("istio-injection").is_none());
        let all: Vec<&str> = injection.map(|_| "istio-injection").into_iter().chain(others).collect();
        if all.len() > 1 {
            let message = format!("{} are all set: one of them counts", all.join(", "));
            let diagnostic = Diagnostic::warning(Code::NamespaceMultipleInjectionLabels, message);
            world.say(r, diagnostic, "metadata.labels", "keep one of them");
        }
    }
}

/// An object and the labels of the pods it is for.
struct Chosen<'a> {
    r: &'a Resource,
    field: &'static str,
    labels: Option<&'a Labels>,
}

impl<'a> Chosen<'a> {
    /// Without labels it is for all of its namespace.
    fn of(r: &'a Resource, field: &'static str, labels: Option<&'a Labels>) -> Self {
        Self { r, field, labels: labels.filter(|labels| !labels.is_empty()) }
    }

    fn selects(&self, (pod, labels): &(&Resource, &Labels)) -> bool {
        pod.key.namespace == self.r.key.namespace && self.labels.is_some_and(|wanted| is_subset(wanted, labels))
    }
}

/// All the pods that it is for are outside the mesh. From the root namespace it is for all of the mesh.
fn without_effect(world: &mut World<'_>, one: &Chosen<'_>) {
    let snapshot = &world.compiler.snapshot;
    let namespace = &one.r.key.namespace;
    if one.labels.is_none() && *namespace == snapshot.mesh().root_namespace {
        return;
    }
    let here = |w: &&Arc<Workload>| w.key.namespace == *namespace && one.labels.is_none_or(|l| is_subset(l, &w.labels));
    let mut pods = snapshot.workloads().filter(here).peekable();
    let Some(first) = pods.peek().map(|pod| pod.key.clone()) else { return };
    // Whether files without the Namespace mean pods of the mesh nobody can tell.
    let known = world.compiler.index.get(&ObjectKey::new(Kind::Namespace, "", namespace)).is_some();
    let outside = |pod: &Arc<Workload>| match &pod.enrolment {
        Enrolment::Outside { reason: OutsideReason::NamespaceNotLabelled } => known,
        Enrolment::Outside { reason } => matches!(reason, OutsideReason::OptedOut | OutsideReason::HostNetwork),
        _ => false,
    };
    if !pods.all(outside) {
        return;
    }
    let message = format!("{first} and all other pods that it is for are outside the mesh: it has no effect");
    let diagnostic = Diagnostic::warning(Code::IneffectivePolicy, message);
    world.say(one.r, diagnostic, "", "put the pods into the mesh (label their namespace istio-injection=enabled)");
}

/// Said of each of those that contest a pod or a namespace: which of them is wrong only their author knows.
fn contested(world: &mut World<'_>, all: &[Chosen<'_>], one_pod: Code, one_namespace: Code) {
    let pods = world.pods();
    let mut plain: BTreeMap<&str, Vec<&Chosen<'_>>> = BTreeMap::new();
    for one in all {
        without_effect(world, one);
        let Some(labels) = one.labels else {
            plain.entry(&one.r.key.namespace).or_default().push(one);
            continue;
        };
        let field = format!("{}.{}", one.field, if one.field.ends_with("Selector") { "labels" } else { "matchLabels" });
        if !pods.is_empty() && !pods.iter().any(|pod| one.selects(pod)) {
            let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let message =
                format!("no pod of namespace {} has {}: it has no effect", one.r.key.namespace, wanted.join(","));
            let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
            world.say(one.r, diagnostic, &field, "start the pods, or correct the labels");
        }
        for other in all.iter().filter(|other| !std::ptr::eq(other.r, one.r)) {
            if let Some((pod, _)) = pods.iter().find(|pod| one.selects(pod) && other.selects(pod)) {
                let message = format!("{} selects {} too: the older of them counts", other.r.key, pod.key);
                world.say(one.r, Diagnostic::error(one_pod, message), &field, "make the selectors exclude each other");
            }
        }
    }
    for (namespace, mut contestants) in plain.into_iter().filter(|(_, contestants)| contestants.len() > 1) {
        contestants.sort_by_cached_key(|one| Age::of(one.r));
        let Some((winner, losers)) = contestants.split_first() else { continue };
        for loser in losers {
            let fix = format!("keep one object without {}", loser.field.trim_start_matches("spec."));
            let message = format!(
                "{} is older and holds for all of namespace {namespace} too: this one has no effect",
                winner.r.key
            );
            world.say(loser.r, Diagnostic::error(one_namespace, message), loser.field, &fix);
            let message =
                format!("{} is for all of namespace {namespace} too: it is younger and has no effect", loser.r.key);
            world.say(winner.r, Diagnostic::error(one_namespace, message), winner.field, fix);
        }
    }
}
