//! Sidecars that contest workloads (IST0110, IST0111), labels that contest a namespace (IST0123).

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, Object};
use crate::snapshot::is_subset;
use std::collections::BTreeMap;

pub(super) fn analyze(world: &mut World<'_>) {
    sidecars(world);
    for r in world.objects.clone().into_iter().filter(|r| r.key.kind == Kind::Namespace) {
        let label = |name: &str| r.meta.labels.get(name).is_some_and(|value| !value.is_empty());
        if label("istio-injection") && label("istio.io/rev") {
            let message = "istio-injection and istio.io/rev are both set: istio-injection counts";
            let diagnostic = Diagnostic::warning(Code::NamespaceMultipleInjectionLabels, message);
            world.say(r, diagnostic, "metadata.labels", "keep one of them");
        }
    }
}

fn sidecars(world: &mut World<'_>) {
    let all = world.sidecars();
    let mut plain: BTreeMap<&str, Vec<&crate::config::Resource>> = BTreeMap::new();
    for (r, spec) in &all {
        if spec.workload_selector.as_ref().is_none_or(|s| s.labels.is_empty()) {
            plain.entry(&r.key.namespace).or_default().push(r);
        }
    }
    for (namespace, mut sidecars) in plain.into_iter().filter(|(_, sidecars)| sidecars.len() > 1) {
        sidecars.sort_by_cached_key(|r| super::super::index::Age::of(r));
        for loser in &sidecars[1..] {
            let message = format!(
                "{} is older and holds for all of namespace {namespace} too: this one has no effect",
                sidecars[0].key
            );
            let diagnostic = Diagnostic::error(Code::MultipleSidecarsWithoutWorkloadSelectors, message);
            world.say(loser, diagnostic, "spec.workloadSelector", "keep one Sidecar without workloadSelector");
        }
    }
    let pods: Vec<_> = world.objects.iter().filter(|r| matches!(r.object, Object::Pod(_))).copied().collect();
    for (i, (r, spec)) in all.iter().enumerate() {
        let Some(selector) = spec.workload_selector.as_ref().filter(|s| !s.labels.is_empty()) else { continue };
        for (other, former) in &all[..i] {
            let Some(theirs) = former.workload_selector.as_ref().filter(|s| !s.labels.is_empty()) else { continue };
            let both = |pod: &&&std::sync::Arc<crate::config::Resource>| {
                pod.key.namespace == r.key.namespace
                    && is_subset(&selector.labels, &pod.meta.labels)
                    && is_subset(&theirs.labels, &pod.meta.labels)
            };
            if other.key.namespace == r.key.namespace
                && let Some(pod) = pods.iter().find(both)
            {
                let message = format!("{} selects {} too: the older of them counts", other.key, pod.key);
                let diagnostic = Diagnostic::error(Code::ConflictingSidecarWorkloadSelectors, message);
                world.say(r, diagnostic, "spec.workloadSelector.labels", "make the selectors exclude each other");
            }
        }
    }
}
