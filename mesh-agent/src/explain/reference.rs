//! Objects and rules by name, place and condition.

use super::view::{NearMiss, Reference, Rule};
use crate::config::compile::Compiler;
use crate::config::resource::ObjectKey;
use crate::route::{Mismatch, l4};
use crate::snapshot::route::{Conditions, MESH, Matcher, Route, RuleRef};

pub(super) fn of_rule(compiler: &Compiler, rule: &RuleRef) -> Reference {
    match &rule.object {
        Some(object) => Reference { field: rule.field.to_string(), ..of_object(compiler, object) },
        None => Reference { object: String::new(), field: rule.field.to_string(), place: String::new() },
    }
}

pub(super) fn of_object(compiler: &Compiler, object: &ObjectKey) -> Reference {
    let place = compiler.place(object).map(ToString::to_string).unwrap_or_default();
    Reference { object: object.to_string(), field: String::new(), place }
}

pub(super) fn rule(compiler: &Compiler, route: &Route) -> Rule {
    Rule {
        name: route.name.to_string(),
        reference: of_rule(compiler, &route.rule),
        matches: matches(&route.conditions, &route.matcher),
    }
}

pub(super) fn near_miss(compiler: &Compiler, route: &Route, why: &Mismatch<'_>) -> NearMiss {
    NearMiss { name: route.name.to_string(), reference: of_rule(compiler, &route.rule), why: why.to_string() }
}

/// As above, of a rule for connections.
pub(super) fn l4_rule(compiler: &Compiler, rule: l4::Rule<'_>) -> Rule {
    let mut all = Vec::new();
    if let l4::Rule::Tls(tls) = rule {
        all.push(format!("SNI {}", tls.sni.join(" or ")));
    }
    if !rule.subnets().is_empty() {
        let subnets: Vec<String> = rule.subnets().iter().map(ToString::to_string).collect();
        all.push(format!("address in {}", subnets.join(" or ")));
    }
    let conditions = rule.conditions();
    if all.is_empty() || *conditions != (Conditions { gateways: conditions.gateways.clone(), ..Conditions::default() })
    {
        all.push(matches(conditions, &Matcher::default()));
    }
    Rule { name: String::new(), reference: of_rule(compiler, rule.reference()), matches: all.join(" and ") }
}

/// What a rule wants, in one line.
pub(super) fn matches(conditions: &Conditions, wanted: &Matcher) -> String {
    let mut all = Vec::new();
    all.extend(wanted.path.as_ref().map(|path| format!("path {path}")));
    all.extend(wanted.method.as_ref().map(|method| format!("method {method}")));
    all.extend(wanted.scheme.as_ref().map(|scheme| format!("scheme {scheme}")));
    all.extend(wanted.authority.as_ref().map(|authority| format!("authority {authority}")));
    all.extend(wanted.headers.iter().map(|header| {
        let not = if header.invert { "not " } else { "" };
        format!("header {} {not}{}", header.name, header.value)
    }));
    all.extend(wanted.query.iter().map(|query| format!("query parameter {} {}", query.name, query.value)));
    all.extend(conditions.port.map(|port| format!("port {port}")));
    all.extend(conditions.source_namespace.as_ref().map(|namespace| format!("source namespace {namespace}")));
    all.extend(conditions.source_labels.iter().map(|(name, value)| format!("source label {name}={value}")));
    let gateways: Vec<&str> = conditions.gateways.iter().map(|name| &**name).filter(|name| *name != MESH).collect();
    if !gateways.is_empty() {
        all.push(format!("gateway {}", gateways.join(" or ")));
    }
    if all.is_empty() { "everything".into() } else { all.join(" and ") }
}
