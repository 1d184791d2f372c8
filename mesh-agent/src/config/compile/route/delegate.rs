//! Delegates (SEMANTICS §3 "Delegate"): a root's rule takes the rules of another VirtualService in its place.

use super::{Found, Rule, http_rule, visibility};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::virtual_service::{HttpMatch, HttpRoute, Spec};
use crate::config::resource::istio::wire::StringMatch;
use crate::config::resource::{Kind, ObjectKey, Resource};
use crate::snapshot::route::Route;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every VirtualService that one names as delegate, there or not.
pub(in crate::config::compile) fn delegates(r: &Resource, spec: &Spec) -> Vec<ObjectKey> {
    spec.http.iter().filter_map(|http| key(r, http)).collect()
}

fn key(r: &Resource, http: &HttpRoute) -> Option<ObjectKey> {
    let delegate = http.delegate.as_ref()?;
    let namespace = if delegate.namespace.is_empty() { &r.key.namespace } else { &delegate.namespace };
    Some(ObjectKey { kind: Kind::VirtualService, namespace: Arc::clone(namespace), name: Arc::clone(&delegate.name) })
}

/// Puts the delegate's rules in place of the root's.
pub(super) fn expand<'a>(
    root: &Resource,
    http: &HttpRoute,
    rule: &mut Rule<'_>,
    find: &dyn Fn(&ObjectKey) -> Option<(&'a Resource, &'a Spec)>,
    routes: &mut Vec<Arc<Route>>,
    found: &mut Vec<Found>,
) {
    if !http.route.is_empty() || http.redirect.is_some() || http.direct_response.is_some() {
        let fix = "keep delegate, or the others";
        rule.error(
            "delegate",
            "a rule with a delegate has no route, redirect or directResponse; the delegate counts",
            fix,
        );
    }
    let Some(key) = key(root, http) else { return };
    let Some((r, spec)) = find(&key) else {
        let message = format!("there is no {key}; the rule is left out");
        let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
        return rule.say(diagnostic, "delegate", "add the VirtualService, or correct the name");
    };
    if !visibility(&spec.export_to, &rule.defaults.export).visible_to(&r.key.namespace, &root.key.namespace) {
        let message = format!("{key} is not exported to namespace {}; the rule is left out", root.key.namespace);
        let diagnostic = Diagnostic::error(Code::ReferencedResourceNotFound, message);
        return rule.say(diagnostic, "delegate", "add the namespace to the delegate's exportTo");
    }
    if !spec.hosts.is_empty() {
        let message = format!("{key} has hosts, so it is a root itself; the rule is left out");
        return rule.error("delegate", message, "remove the delegate's hosts");
    }
    for (i, inner) in spec.http.iter().enumerate() {
        let at = format!("spec.http[{i}]");
        let mut own = Rule { key: &r.key, at, gateways: rule.gateways, defaults: rule.defaults, found: Vec::new() };
        if inner.delegate.is_some() {
            own.error("delegate", "a delegate cannot delegate further; the rule is left out", "write its rules here");
        } else if let Some(merged) = merge(http, inner) {
            routes.extend(http_rule(&merged, &mut own));
        } else {
            let message =
                format!("its match is not part of the match in {} of {}; the rule is left out", rule.at, root.key);
            own.error("match", message, "make each match narrower than one of the root's");
        }
        let place = (r.key.clone(), r.place.clone());
        found.extend(own.found.into_iter().map(|d| (Some(place.clone()), d)));
    }
}

/// The delegate's rule within the root's; none where the matches exclude each other.
fn merge(root: &HttpRoute, own: &HttpRoute) -> Option<HttpRoute> {
    let r#match = match (&root.r#match[..], &own.r#match[..]) {
        ([], own) => own.to_vec(),
        (root, []) => root.to_vec(),
        (root, own) => {
            let mut all = Vec::new();
            for inner in own {
                let fitting: Vec<_> = root.iter().filter(|outer| !conflict(outer, inner)).collect();
                if fitting.is_empty() {
                    return None;
                }
                all.extend(fitting.into_iter().map(|outer| merge_match(outer, inner)));
            }
            all
        }
    };
    let mut merged = own.clone();
    merged.r#match = r#match;
    merged.name = join(&root.name, &own.name);
    merged.rewrite = own.rewrite.clone().or_else(|| root.rewrite.clone());
    merged.timeout = own.timeout.or(root.timeout);
    merged.retries = own.retries.clone().or_else(|| root.retries.clone());
    merged.fault = own.fault.clone().or_else(|| root.fault.clone());
    if own.mirror.is_none() {
        merged.mirror.clone_from(&root.mirror);
        merged.mirror_percent = own.mirror_percent.or(root.mirror_percent);
        merged.mirror_percentage = own.mirror_percentage.or(root.mirror_percentage);
    }
    if own.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    merged.cors_policy = own.cors_policy.clone().or_else(|| root.cors_policy.clone());
    merged.headers = own.headers.clone().or_else(|| root.headers.clone());
    Some(merged)
}

fn join(root: &Arc<str>, own: &Arc<str>) -> Arc<str> {
    match (root.is_empty(), own.is_empty()) {
        (true, _) => Arc::clone(own),
        (_, true) => Arc::clone(root),
        _ => format!("{root}-{own}").into(),
    }
}

fn merge_match(root: &HttpMatch, own: &HttpMatch) -> HttpMatch {
    let maps = |root: &BTreeMap<Arc<str>, StringMatch>, own: &BTreeMap<Arc<str>, StringMatch>| {
        let mut all = root.clone();
        all.extend(own.clone());
        all
    };
    let mut source_labels = root.source_labels.clone();
    source_labels.extend(own.source_labels.clone());
    HttpMatch {
        name: join(&root.name, &own.name),
        uri: own.uri.clone().or_else(|| root.uri.clone()),
        scheme: own.scheme.clone().or_else(|| root.scheme.clone()),
        method: own.method.clone().or_else(|| root.method.clone()),
        authority: own.authority.clone().or_else(|| root.authority.clone()),
        headers: maps(&root.headers, &own.headers),
        query_params: maps(&root.query_params, &own.query_params),
        without_headers: maps(&root.without_headers, &own.without_headers),
        port: if own.port == 0 { root.port } else { own.port },
        source_labels,
        gateways: if own.gateways.is_empty() { root.gateways.clone() } else { own.gateways.clone() },
        ignore_uri_case: own.ignore_uri_case,
        source_namespace: if own.source_namespace.is_empty() {
            Arc::clone(&root.source_namespace)
        } else {
            Arc::clone(&own.source_namespace)
        },
    }
}

/// Whether something that `own` takes is outside `root`, or cannot be told to be inside.
fn conflict(root: &HttpMatch, own: &HttpMatch) -> bool {
    let strings = [
        (root.uri.as_ref(), own.uri.as_ref()),
        (root.scheme.as_ref(), own.scheme.as_ref()),
        (root.method.as_ref(), own.method.as_ref()),
        (root.authority.as_ref(), own.authority.as_ref()),
    ];
    let maps = [
        (&root.headers, &own.headers),
        (&root.query_params, &own.query_params),
        (&root.without_headers, &own.without_headers),
    ];
    let in_maps = maps.iter().flat_map(|(root, own)| own.iter().map(|(key, value)| (root.get(key), Some(value))));
    let labels = own.source_labels.iter().any(|(k, v)| root.source_labels.get(k).is_some_and(|other| other != v));
    let gateways = !root.gateways.is_empty() && own.gateways.iter().any(|g| !root.gateways.contains(g));
    let namespaces = !root.source_namespace.is_empty()
        && !own.source_namespace.is_empty()
        && root.source_namespace != own.source_namespace;
    strings.into_iter().chain(in_maps).any(|(root, own)| strings_conflict(root, own))
        || root.ignore_uri_case != own.ignore_uri_case
        || (root.port != 0 && own.port != 0 && root.port != own.port)
        || labels
        || gateways
        || namespaces
}

fn strings_conflict(root: Option<&StringMatch>, own: Option<&StringMatch>) -> bool {
    let (Some(root), Some(own)) = (root, own) else { return false };
    let empty = StringMatch::default();
    if *root == empty {
        return false;
    }
    if *own == empty || root.regex.is_some() || own.regex.is_some() {
        return true;
    }
    match (&root.exact, &root.prefix) {
        (Some(exact), _) => own.exact.as_ref() != Some(exact),
        (None, Some(prefix)) => {
            let text = own.exact.as_ref().or(own.prefix.as_ref());
            !text.is_some_and(|text| text.starts_with(&**prefix))
        }
        (None, None) => false,
    }
}
