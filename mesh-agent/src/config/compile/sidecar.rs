//! Sidecar → which hosts a workload may reach (SEMANTICS §8 "Sidecar").

use super::names::fqdn;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::istio::sidecar::{Egress, Spec};
use crate::snapshot::route::RuleRef;
use crate::snapshot::{EgressListener, EgressScope, OutboundPolicy, ScopedHost, ScopedNamespace};
use std::sync::Arc;

pub(super) fn compile(r: &Resource, spec: &Spec, domain: &str, found: &mut Vec<Diagnostic>) -> EgressScope {
    let mut listeners = Vec::new();
    for (i, egress) in spec.egress.iter().enumerate() {
        let at = format!("spec.egress[{i}]");
        let number = egress.port.as_ref().map_or(0, |port| port.number);
        let Ok(port) = u16::try_from(number) else {
            let message = format!("{number} is not a port number; the listener is left out");
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message).field(format!("{at}.port.number"));
            found.push(diagnostic.fix("write a number from 1 to 65535"));
            continue;
        };
        let hosts = hosts(egress, &at, r, domain, found);
        listeners.push(EgressListener { port: (port != 0).then_some(port), hosts });
    }
    let outbound = spec.outbound_traffic_policy.as_ref().and_then(|policy| match &*policy.mode {
        // The enum's first value is what an empty message means.
        "" | "REGISTRY_ONLY" => Some(OutboundPolicy::RegistryOnly),
        "ALLOW_ANY" => Some(OutboundPolicy::AllowAny),
        other => {
            let message = format!("{other:?} is not one we know; the mesh's policy holds");
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message);
            found.push(diagnostic.field("spec.outboundTrafficPolicy.mode").fix("write ALLOW_ANY or REGISTRY_ONLY"));
            None
        }
    });
    EgressScope {
        namespace: Arc::clone(&r.key.namespace),
        selector: spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default(),
        rule: RuleRef { object: Some(r.key.clone()), field: "spec".into() },
        listeners,
        outbound,
    }
}

fn hosts(egress: &Egress, at: &str, r: &Resource, domain: &str, found: &mut Vec<Diagnostic>) -> Vec<ScopedHost> {
    let mut hosts = Vec::new();
    for (i, text) in egress.hosts.iter().enumerate() {
        let Some((namespace, host)) = text.split_once('/').filter(|(ns, host)| !ns.is_empty() && !host.is_empty())
        else {
            let message = format!("{text:?} is not namespace/host; it is left out");
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message);
            let fix = "write namespace/host, such as ./*, */*.example.com or prod/reviews.prod.svc.cluster.local";
            found.push(diagnostic.field(format!("{at}.hosts[{i}]")).fix(fix));
            continue;
        };
        // `~/*`: nothing. `~ns/host`: without those of `ns`.
        let (exclude, namespace) = match namespace.strip_prefix('~') {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, namespace),
        };
        let own = if matches!(namespace, "." | "*" | "~") { &r.key.namespace } else { namespace };
        let host = fqdn(host, own, domain);
        let namespace = match namespace {
            "*" => ScopedNamespace::Any,
            "." => ScopedNamespace::Own,
            "~" => ScopedNamespace::Nothing,
            name => ScopedNamespace::Named(name.into()),
        };
        hosts.push(ScopedHost { namespace, host, exclude });
    }
    hosts
}
