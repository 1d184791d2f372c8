//! Objects that select or serve nothing: subsets without pods, gateways without workloads, server certificates that
//! nobody looks at (IST0101, IST0102, IST0128, IST0129, IST0173).

use super::World;
use crate::config::compile::index::service_key;
use crate::config::diagnostic::{Code, Diagnostic, Severity};
use crate::config::resource::istio::destination_rule::ClientTls;
use crate::config::resource::{Kind, Labels, ObjectKey, Resource};
use crate::snapshot::{Client, Enrolment, Locality, OutsideReason, Resolution, Service, is_subset};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn analyze(world: &mut World<'_>) {
    subsets(world);
    gateways(world);
    tls(world);
    namespaces(world);
}

fn subsets(world: &mut World<'_>) {
    for (r, spec) in world.destination_rules() {
        let labels = BTreeMap::new();
        let client = Client { namespace: &r.key.namespace, labels: &labels };
        let host = world.fqdn(&spec.host, r);
        let Some(service) = world.compiler.snapshot.service_by_host(&client, &host) else { continue };
        for (i, subset) in spec.subsets.iter().enumerate().filter(|(_, s)| !s.labels.is_empty()) {
            let Some(severity) = without_members(world, service, &subset.labels) else { continue };
            let wanted: Vec<String> = subset.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let message =
                format!("no endpoint of {host} has {}: requests to the subset are answered 503 (UH)", wanted.join(","));
            let diagnostic = Diagnostic::new(severity, Code::DestinationRuleSubsetNotSelectPods, message);
            let fix = "start pods with these labels, or correct them";
            world.say(r, diagnostic, format!("spec.subsets[{i}].labels"), fix);
        }
    }
}

/// How bad it is that nothing bears the labels: a warning by the Service's endpoints, else (files have no addresses) worth
/// knowing by the pods that are to be, wherever those will run. `None` where something does, or nobody can tell; without
/// any endpoint the Service has a finding of its own.
fn without_members(world: &World<'_>, service: &Service, labels: &Labels) -> Option<Severity> {
    if service.resolution != Resolution::Static {
        return None;
    }
    let mut endpoints = service.ports.iter().flat_map(|p| &p.endpoints.endpoints).peekable();
    if endpoints.peek().is_some() {
        return (!endpoints.any(|endpoint| endpoint.bears(labels))).then_some(Severity::Warning);
    }
    let services = world.services();
    let (_, spec) = services.iter().find(|(r, _)| r.key == service_key(&service.name))?;
    let placeless = |labels: &Labels| -> Labels {
        let kept = labels.iter().filter(|(key, _)| Locality::default().label(key).is_none());
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let wanted = placeless(labels);
    let here = |r: &Resource| r.key.namespace == service.name.namespace && !spec.selector.is_empty();
    let pods = world.pods().into_iter().filter(|(r, labels)| here(r) && is_subset(&spec.selector, labels));
    let mut pods = pods.peekable();
    pods.peek()?;
    (!pods.any(|(_, labels)| is_subset(&wanted, labels))).then_some(Severity::Info)
}

/// Said only where pods are at hand at all, and not of the gateways that every installation has.
fn gateways(world: &mut World<'_>) {
    let labels: Vec<_> = world.pods().into_iter().map(|(_, labels)| labels).collect();
    for (r, gateway) in world.gateways() {
        let selector = &gateway.spec.selector;
        let usual = selector.len() == 1
            && selector.get("istio").is_some_and(|v| matches!(&**v, "ingressgateway" | "egressgateway"));
        if usual || labels.is_empty() || labels.iter().any(|labels| is_subset(selector, labels)) {
            continue;
        }
        let wanted: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let message = format!("no pod has {}: nobody serves this Gateway", wanted.join(","));
        let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
        world.say(r, diagnostic, "spec.selector", "start the gateway's pods, or correct the selector");
    }
}

fn tls(world: &mut World<'_>) {
    let blind = |tls: &Option<ClientTls>| tls.as_ref().is_some_and(|t| t.insecure_skip_verify == Some(true));
    for (r, spec) in world.destination_rules() {
        let own = spec
            .subsets
            .iter()
            .enumerate()
            .map(|(i, s)| (format!("spec.subsets[{i}].trafficPolicy"), &s.traffic_policy));
        let all = std::iter::once(("spec.trafficPolicy".to_owned(), &spec.traffic_policy)).chain(own);
        for (at, policy) in all.filter_map(|(at, policy)| Some((at, policy.as_ref()?))) {
            let fix = "remove insecureSkipVerify, and name the authority in caCertificates";
            let message = format!("the certificate of {} is not verified: anybody may answer in its place", spec.host);
            if blind(&policy.tls) {
                let diagnostic =
                    Diagnostic::warning(Code::NoServerCertificateVerificationDestinationLevel, message.clone());
                world.say(r, diagnostic, format!("{at}.tls.insecureSkipVerify"), fix);
            }
            for (i, port) in policy.port_level_settings.iter().enumerate().filter(|(_, p)| blind(&p.tls)) {
                let message = format!("{message} (port {})", port.port.number);
                let diagnostic = Diagnostic::warning(Code::NoServerCertificateVerificationPortLevel, message);
                world.say(r, diagnostic, format!("{at}.portLevelSettings[{i}].tls.insecureSkipVerify"), fix);
            }
        }
    }
}

/// Namespaces with pods that are not in the mesh, once each.
fn namespaces(world: &mut World<'_>) {
    let outside = |e: &Enrolment| matches!(e, Enrolment::Outside { reason: OutsideReason::NamespaceNotLabelled });
    let snapshot = &world.compiler.snapshot;
    let names: BTreeSet<_> =
        snapshot.workloads().filter(|w| outside(&w.enrolment)).map(|w| w.key.namespace.clone()).collect();
    for name in names.iter().filter(|name| !matches!(&***name, "kube-system" | "kube-public" | "kube-node-lease")) {
        let key = ObjectKey::new(Kind::Namespace, "", name);
        let Some(r): Option<&Resource> = world.compiler.index.get(&key).map(|r| &**r) else { continue };
        if r.meta.labels.contains_key("istio-injection") {
            continue;
        }
        let message = format!("pods of namespace {name} are outside the mesh: it has no label");
        let diagnostic = Diagnostic::info(Code::NamespaceNotInjected, message);
        world.say(
            r,
            diagnostic,
            "metadata.labels",
            format!("kubectl label namespace {name} istio-injection=enabled, or =disabled to say that it is meant"),
        );
    }
}
