//! Rules and matches that nothing ever reaches (IST0130, IST0131).

use super::World;
use crate::config::compile::route::{is_catch_all, is_unconditional};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::snapshot::route::{PathMatch, Route};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn analyze(world: &mut World<'_>) {
    let compiler = world.compiler;
    for (r, spec) in world.virtual_services() {
        let Some(compiled) = compiler.traffic.compiled(&r.key) else { continue };
        // Which rule hides which route of `spec.http[…]`.
        let mut hidden: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut routes_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (i, route) in compiled.routes.iter().enumerate() {
            let Some(rule) = rule_of(route, &r.key) else { continue };
            *routes_of.entry(rule).or_default() += 1;
            let Some(by) = compiled.routes[..i].iter().find(|former| hides(former, route)) else { continue };
            let entry = hidden.entry(rule).or_insert((0, 0));
            entry.0 += 1;
            entry.1 = rule_of(by, &r.key).unwrap_or(entry.1);
            if spec.http.get(rule).is_some_and(|http| http.r#match.len() > 1) {
                let message = format!("never reached: {} takes every request that it would", by.rule.field);
                let diagnostic = Diagnostic::info(Code::VirtualServiceIneffectiveMatch, message);
                world.say(r, diagnostic, route.rule.field.to_string(), "remove it, or move it up");
            }
        }
        for (rule, (count, by)) in hidden.into_iter().filter(|(rule, (count, _))| routes_of.get(rule) == Some(count)) {
            let _ = count;
            let message = format!("never reached: spec.http[{by}] takes every request that it would");
            let diagnostic = Diagnostic::warning(Code::VirtualServiceUnreachableRule, message);
            world.say(r, diagnostic, format!("spec.http[{rule}]"), "remove it, or move it above the wider one");
        }
    }
}

/// Index in `spec.http` of the rule a route was made of, where it stands in the VirtualService itself.
fn rule_of(route: &Arc<Route>, own: &crate::config::resource::ObjectKey) -> Option<usize> {
    let here = route.rule.object.as_ref() == Some(own);
    let rest = route.rule.field.strip_prefix("spec.http[").filter(|_| here)?;
    rest.split(']').next()?.parse().ok()
}

/// Whether every request that `later` takes is taken by `former`. May say no where it is so, never the reverse.
fn hides(former: &Route, later: &Route) -> bool {
    let gateways = later.conditions.gateways.iter().all(|g| former.conditions.gateways.contains(g));
    if !gateways || !(is_unconditional(&former.conditions) || same_conditions(former, later)) {
        return false;
    }
    if is_catch_all(&former.matcher) || former.matcher == later.matcher {
        return true;
    }
    // A prefix alone hides what begins with it, however narrow.
    let only_path = crate::snapshot::route::Matcher { path: None, ..former.matcher.clone() };
    is_catch_all(&only_path) && path_hides(former.matcher.path.as_ref(), later.matcher.path.as_ref())
}

fn same_conditions(former: &Route, later: &Route) -> bool {
    let (f, l) = (&former.conditions, &later.conditions);
    f.port == l.port && f.source_namespace == l.source_namespace && f.source_labels == l.source_labels
}

fn path_hides(former: Option<&PathMatch>, later: Option<&PathMatch>) -> bool {
    let (Some(PathMatch::Prefix { value, ignore_case: false }), Some(later)) = (former, later) else { return false };
    match later {
        PathMatch::Exact { value: other, ignore_case: false }
        | PathMatch::Prefix { value: other, ignore_case: false } => other.starts_with(&**value),
        _ => false,
    }
}
