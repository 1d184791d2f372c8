//! VirtualService → routes (SEMANTICS §3, §4). Pure; one VirtualService and its delegates at a time.
//!
//! What is wrong is named and taken out as narrowly as its meaning allows: a match that cannot be read is left out (and
//! with its last match the rule: it must not become a catch-all), a policy that cannot be read falls back to what holds
//! without it, a destination that cannot be read keeps its share and answers 500.

mod action;
mod delegate;
mod l4;
mod matcher;
mod policy;

pub(super) use delegate::delegates;
pub(super) use policy::retry;

use super::Found;
use super::names::{fqdn, gateway, visibility};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::virtual_service::{HttpMatch, HttpRoute, Spec};
use crate::config::resource::{ObjectKey, Resource};
use crate::snapshot::route::{
    Conditions, Family, MESH, Matcher, PathMatch, RetryPolicy, Route, RuleRef, VirtualHost, Visibility,
};
use crate::snapshot::{L4Host, L4Routes};
use std::sync::Arc;

/// What holds for every VirtualService.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Defaults {
    pub(super) domain: Arc<str>,
    pub(super) export: Visibility,
    pub(super) retry: Option<Arc<RetryPolicy>>,
}

/// One VirtualService, compiled.
#[derive(Debug, PartialEq)]
pub(super) struct Compiled {
    pub(super) namespace: Arc<str>,
    pub(super) export: Visibility,
    /// FQDNs.
    pub(super) hosts: Vec<Arc<str>>,
    /// `namespace/name` or [`MESH`].
    pub(super) gateways: Vec<Arc<str>>,
    /// Of all gateways, in the order written.
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) l4: Arc<L4Routes>,
}

/// One rule's surroundings.
struct Rule<'a> {
    /// The object the rule stands in: the VirtualService, or its delegate.
    key: &'a ObjectKey,
    /// `spec.http[0]`
    at: String,
    /// The VirtualService's own.
    gateways: &'a [Arc<str>],
    defaults: &'a Defaults,
    found: Vec<Diagnostic>,
}

impl Rule<'_> {
    fn error(&mut self, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.say(Diagnostic::error(Code::SchemaValidationError, message), field, fix);
    }

    fn warning(&mut self, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.say(Diagnostic::warning(Code::SchemaWarning, message), field, fix);
    }

    fn say(&mut self, diagnostic: Diagnostic, field: &str, fix: impl Into<String>) {
        let dot = if field.is_empty() { "" } else { "." };
        self.found.push(diagnostic.field(format!("{}{dot}{field}", self.at)).fix(fix));
    }

    fn fqdn(&self, host: &str) -> Arc<str> {
        fqdn(host, &self.key.namespace, &self.defaults.domain)
    }

    fn reference(&self, part: &str) -> RuleRef {
        RuleRef { object: Some(self.key.clone()), field: format!("{}{part}", self.at).into() }
    }
}

/// Compiles a VirtualService. `delegate` finds those it names, where they may be used by it.
pub(super) fn compile<'a>(
    r: &'a Resource,
    spec: &'a Spec,
    delegate: &dyn Fn(&ObjectKey) -> Option<(&'a Resource, &'a Spec)>,
    defaults: &Defaults,
    found: &mut Vec<Found>,
) -> Compiled {
    let namespace = &r.key.namespace;
    let gateways: Vec<Arc<str>> = match &spec.gateways[..] {
        [] => vec![MESH.into()],
        names => names.iter().map(|name| gateway(name, namespace)).collect(),
    };
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (i, host) in spec.hosts.iter().enumerate() {
        match host_error(host) {
            Some(why) => found.push((None, bad_host(&format!("spec.hosts[{i}]"), host, why))),
            None => {
                let host = fqdn(host, namespace, &defaults.domain);
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
    }
    let mut routes = Vec::new();
    for (i, http) in spec.http.iter().enumerate() {
        let mut rule =
            Rule { key: &r.key, at: format!("spec.http[{i}]"), gateways: &gateways, defaults, found: Vec::new() };
        if http.delegate.is_some() {
            delegate::expand(r, http, &mut rule, delegate, &mut routes, found);
        } else {
            routes.extend(http_rule(http, &mut rule));
        }
        found.extend(rule.found.into_iter().map(|d| (None, d)));
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() && !hosts.is_empty() {
        let diagnostic = Diagnostic::warning(Code::SchemaWarning, "no http, tls or tcp rule: it has no effect");
        found.push((None, diagnostic.field("spec.http").fix("add a rule, or remove the VirtualService")));
    }
    let l4 = Arc::new(l4::compile(r, spec, &gateways, defaults, found));
    let export = visibility(&spec.export_to, &defaults.export);
    Compiled { namespace: Arc::clone(namespace), export, hosts, gateways, routes, l4 }
}

/// One `http[]` entry: a route for each match, in order; one for all where there is none.
fn http_rule(http: &HttpRoute, rule: &mut Rule<'_>) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    let every = [HttpMatch::default()];
    let matches = if http.r#match.is_empty() { &every[..] } else { &http.r#match[..] };
    for (i, one) in matches.iter().enumerate() {
        let part = if http.r#match.is_empty() { String::new() } else { format!(".match[{i}]") };
        let Some(matcher) = matcher::matcher(one, part.trim_start_matches('.'), rule) else { continue };
        let name = if one.name.is_empty() { http.name.to_string() } else { format!("{}.{}", http.name, one.name) };
        let first = rule.found.len();
        routes.push(Arc::new(action::route(http, one, matcher, name.into(), rule.reference(&part), rule)));
        if i > 0 {
            // The action is the same for every match: what is wrong with it has been said.
            rule.found.truncate(first);
        }
    }
    routes
}

impl Compiled {
    pub(super) fn binds(&self, gateway: &str) -> bool {
        self.gateways.iter().any(|g| &**g == gateway)
    }

    /// What one gateway's (or the mesh's) traffic meets, in order. Nothing after a rule that takes every request.
    pub(super) fn routes_of(&self, gateway: &str) -> Vec<Arc<Route>> {
        let mut routes = Vec::new();
        for route in self.routes.iter().filter(|r| r.conditions.gateways.iter().any(|g| &**g == gateway)) {
            routes.push(Arc::clone(route));
            if is_catch_all(&route.matcher) && is_unconditional(&route.conditions) {
                break;
            }
        }
        routes
    }

    /// The mesh's virtual host; none where no rule is for the mesh: then the Service's own default holds.
    pub(super) fn virtual_host(&self, host: &Arc<str>) -> Option<VirtualHost> {
        let routes = if self.binds(MESH) { self.routes_of(MESH) } else { Vec::new() };
        (!routes.is_empty()).then(|| VirtualHost {
            host: Arc::clone(host),
            family: Family::Istio,
            namespace: Arc::clone(&self.namespace),
            export: self.export.clone(),
            ports: Vec::new(),
            routes: routes.into(),
        })
    }

    pub(super) fn l4_host(&self, host: &Arc<str>) -> Option<L4Host> {
        (self.binds(MESH) && !self.l4.is_empty()).then(|| L4Host {
            host: Arc::clone(host),
            namespace: Arc::clone(&self.namespace),
            export: self.export.clone(),
            routes: Arc::clone(&self.l4),
        })
    }
}

/// Takes every request that comes to it (SEMANTICS §3 "catch-all").
pub(super) fn is_catch_all(m: &Matcher) -> bool {
    let any_path = match &m.path {
        None => true,
        Some(PathMatch::Prefix { value, .. }) => &**value == "/",
        Some(PathMatch::Regex(pattern)) => pattern.source() == ".*",
        Some(PathMatch::Exact { .. } | PathMatch::SegmentPrefix(_)) => false,
    };
    let none = m.scheme.is_none() && m.method.is_none() && m.authority.is_none();
    any_path && none && m.headers.is_empty() && m.query.is_empty()
}

pub(super) fn is_unconditional(c: &Conditions) -> bool {
    c.port.is_none() && c.source_namespace.is_none() && c.source_labels.is_empty()
}

fn host_error(host: &str) -> Option<&'static str> {
    let rest = host.strip_prefix('*').unwrap_or(host);
    if host.is_empty() {
        Some("is empty")
    } else if rest.contains('*') {
        Some("has a * that is not at its beginning")
    } else if rest.contains(['/', ' ', '@']) {
        Some("is not a DNS name")
    } else {
        None
    }
}

fn bad_host(field: &str, host: &str, why: &str) -> Diagnostic {
    Diagnostic::error(Code::SchemaValidationError, format!("host {host:?} {why}; it is left out"))
        .field(field)
        .fix("write a DNS name, *.suffix or *")
}

/// `spec.hosts` as they are looked up, for analysis.
pub(super) fn hosts_of(spec: &Spec, namespace: &str, domain: &str) -> Vec<Arc<str>> {
    let good = spec.hosts.iter().filter(|host| host_error(host).is_none());
    good.map(|host| fqdn(host, namespace, domain)).collect()
}
