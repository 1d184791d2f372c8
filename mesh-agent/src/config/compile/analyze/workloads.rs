//! Objects that select or serve nothing: subsets without pods, gateways without workloads, server certificates that
//! nobody looks at, entries that nobody can reach (IST0101, IST0102, IST0127, IST0128, IST0129, IST0134).

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::destination_rule::ClientTls;
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use crate::snapshot::{Client, Enrolment, OutsideReason, Resolution, is_subset};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn analyze(world: &mut World<'_>) {
    subsets(world);
    gateways(world);
    tls(world);
    entries(world);
    namespaces(world);
}

fn subsets(world: &mut World<'_>) {
    for (r, spec) in world.destination_rules() {
        let labels = BTreeMap::new();
        let client = Client { namespace: &r.key.namespace, labels: &labels };
        let host = world.fqdn(&spec.host, r);
        let Some(service) = world.compiler.snapshot.service_by_host(&client, &host) else { continue };
        let endpoints: Vec<_> = service.ports.iter().flat_map(|p| &p.endpoints.endpoints).collect();
        // Without any endpoint the Service has a finding of its own.
        if endpoints.is_empty() || service.resolution != Resolution::Static {
            continue;
        }
        for (i, subset) in spec.subsets.iter().enumerate().filter(|(_, s)| !s.labels.is_empty()) {
            let chosen =
                endpoints.iter().any(|e| e.workload.as_ref().is_some_and(|w| is_subset(&subset.labels, &w.labels)));
            if !chosen {
                let wanted: Vec<String> = subset.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let message = format!(
                    "no endpoint of {host} has {}: requests to the subset are answered 503 (UH)",
                    wanted.join(",")
                );
                let diagnostic = Diagnostic::warning(Code::NoMatchingWorkloadsFound, message);
                world.say(
                    r,
                    diagnostic,
                    format!("spec.subsets[{i}].labels"),
                    "start pods with these labels, or correct them",
                );
            }
        }
    }
}

/// Said only where pods are at hand at all, and not of the gateways that every installation has.
fn gateways(world: &mut World<'_>) {
    let labels = world.objects.iter().filter_map(|r| match &r.object {
        Object::Pod(_) => Some(&r.meta.labels),
        Object::Controller(controller) => Some(&controller.spec.template.metadata.labels),
        _ => None,
    });
    let labels: Vec<_> = labels.collect();
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

/// Opaque bytes bear no name: without an address of its own nobody can tell what a connection is for.
fn entries(world: &mut World<'_>) {
    for r in world.objects.clone() {
        let Object::ServiceEntry(entry) = &r.object else { continue };
        let spec = &entry.spec;
        if !spec.addresses.is_empty() || !matches!(&*spec.resolution, "" | "NONE") {
            continue;
        }
        for (i, port) in spec.ports.iter().enumerate() {
            if port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("TCP") {
                let message = format!(
                    "port {} is TCP and the entry has no addresses: any connection to that port may be meant",
                    port.number
                );
                let diagnostic = Diagnostic::warning(Code::ServiceEntryAddressesRequired, message);
                world.say(
                    r,
                    diagnostic,
                    format!("spec.ports[{i}]"),
                    "add addresses, or write the protocol that is spoken (TLS, HTTP)",
                );
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
