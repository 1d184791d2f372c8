//! A route's `parentRefs` that name a Gateway → listeners and hosts.

use super::super::gateway::{hostname, intersection};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::{self as api, FromNamespaces, Gateway, Listener, ParentRef};
use crate::config::resource::{Labels, Resource};
use std::sync::Arc;

/// A listener's name and the hosts that the route has on it.
pub(super) type OnListener = (Arc<str>, Vec<Arc<str>>);

/// Every listener that takes the route.
///
/// `labels`: of the route's namespace.
///
/// # Errors
/// None does; the finding has the API's reason (`RouteConditionReason`).
pub(super) fn listeners(
    (route, kind): (&Resource, &str),
    parent: &ParentRef,
    hostnames: &[Arc<str>],
    (gateway_namespace, gateway): (&str, &Gateway),
    labels: Option<&Labels>,
) -> Result<Vec<OnListener>, Box<Diagnostic>> {
    let refused = |reason: &str, message: &str, fix: &str| {
        let message = format!("{reason}: {message}; the route has no effect there");
        Err(Box::new(Diagnostic::warning(Code::NotAttached, message).fix(fix)))
    };
    let named = |listener: &&Listener| {
        parent.section_name.as_ref().is_none_or(|name| *name == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    };
    let candidates: Vec<&Listener> = gateway.spec.listeners.iter().filter(named).collect();
    if candidates.is_empty() {
        return refused("NoMatchingParent", "the Gateway has no such listener", "correct sectionName and port");
    }
    let allowed = candidates.into_iter().filter(|listener| {
        takes_kind(listener, kind) && takes_namespace(listener, &route.key.namespace, gateway_namespace, labels)
    });
    let allowed: Vec<&Listener> = allowed.collect();
    if allowed.is_empty() {
        let fix = "allow the route's kind and namespace in the listener's allowedRoutes";
        return refused("NotAllowedByListeners", "no listener allows routes of this kind and namespace", fix);
    }
    let taken = allowed.into_iter().map(|listener| (Arc::clone(&listener.name), hosts(hostnames, &hostname(listener))));
    let taken: Vec<OnListener> = taken.filter(|(_, hosts)| !hosts.is_empty()).collect();
    if taken.is_empty() {
        let message = "the route's hostnames and the listeners' have nothing in common";
        return refused("NoMatchingListenerHostname", message, "correct the hostnames");
    }
    Ok(taken)
}

fn hosts(route: &[Arc<str>], listener: &Arc<str>) -> Vec<Arc<str>> {
    if route.is_empty() {
        return vec![Arc::clone(listener)];
    }
    route.iter().filter_map(|host| intersection(&host.to_ascii_lowercase().into(), listener)).collect()
}

fn takes_kind(listener: &Listener, kind: &str) -> bool {
    let http = matches!(&*listener.protocol, "HTTP" | "HTTPS");
    let kinds = &listener.allowed_routes.kinds;
    http && (kinds.is_empty() || kinds.iter().any(|k| &*k.group == api::GROUP && &*k.kind == kind))
}

fn takes_namespace(listener: &Listener, route: &str, gateway: &str, labels: Option<&Labels>) -> bool {
    let namespaces = &listener.allowed_routes.namespaces;
    match namespaces.from {
        FromNamespaces::All => true,
        FromNamespaces::Same => route == gateway,
        FromNamespaces::None => false,
        FromNamespaces::Selector => labels.is_some_and(|labels| namespaces.selector.matches(labels)),
    }
}
