//! Rules and matches that nothing ever reaches (IST0130, IST0131).

use super::World;
use crate::config::compile::route::{is_catch_all, is_unconditional};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{ObjectKey, Resource};
use crate::snapshot::route::{Conditions, Matcher, PathMatch, Route, RuleRef, StringMatch};
use crate::snapshot::{TcpRoute, TlsRoute};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// A match, and the one before it that takes all that it would.
type Reached<'a> = (&'a RuleRef, Option<&'a RuleRef>);

pub(super) fn analyze(world: &mut World<'_>) {
    let compiler = world.compiler;
    for (r, spec) in world.virtual_services() {
        let Some(compiled) = compiler.traffic.compiled(&r.key) else { continue };
        let (routes, l4) = (&compiled.routes, &compiled.l4);
        let http: Vec<usize> = spec.http.iter().map(|rule| rule.r#match.len()).collect();
        report(world, r, "http", &http, &reached(routes, |route| &route.rule, |former, later| hides(former, later)));
        let tls: Vec<usize> = spec.tls.iter().map(|rule| rule.r#match.len()).collect();
        report(world, r, "tls", &tls, &reached(&l4.tls, |route| &route.rule, hides_names));
        let tcp: Vec<usize> = spec.tcp.iter().map(|rule| rule.r#match.len()).collect();
        let wider = |former: &TcpRoute, later: &TcpRoute| {
            holds_wherever(&former.conditions, &later.conditions) && covers(&former.subnets, &later.subnets)
        };
        report(world, r, "tcp", &tcp, &reached(&l4.tcp, |route| &route.rule, wider));
    }
}

fn reached<'a, T>(
    routes: &'a [T],
    rule: impl Fn(&'a T) -> &'a RuleRef,
    hides: impl Fn(&T, &T) -> bool,
) -> Vec<Reached<'a>> {
    let by = |i: usize, later: &T| routes.iter().take(i).find(|former| hides(former, later)).map(&rule);
    routes.iter().enumerate().map(|(i, route)| (rule(route), by(i, route))).collect()
}

/// `matches`: how many each rule of the family has.
fn report(world: &mut World<'_>, r: &Resource, family: &str, matches: &[usize], all: &[Reached<'_>]) {
    // Of each rule: how many routes were made of it, how many of them are hidden, the last one's hider.
    let mut rules: BTreeMap<usize, (usize, usize, Option<usize>)> = BTreeMap::new();
    for (rule, by) in all {
        let Some(number) = rule_of(rule, family, &r.key) else { continue };
        let counted = rules.entry(number).or_default();
        counted.0 += 1;
        let Some(by) = by else { continue };
        counted.1 += 1;
        counted.2 = rule_of(by, family, &r.key).or(counted.2);
        if matches.get(number).is_some_and(|count| *count > 1) {
            let message = format!("never reached: {} takes every request that it would", by.field);
            let diagnostic = Diagnostic::info(Code::VirtualServiceIneffectiveMatch, message);
            world.say(r, diagnostic, rule.field.to_string(), "remove it, or move it up");
        }
    }
    for (number, (_, _, by)) in rules.into_iter().filter(|(_, (all, hidden, _))| all == hidden) {
        let by = by.unwrap_or_default();
        let message = format!("never reached: spec.{family}[{by}] takes every request that it would");
        let diagnostic = Diagnostic::warning(Code::VirtualServiceUnreachableRule, message);
        world.say(r, diagnostic, format!("spec.{family}[{number}]"), "remove it, or move it above the wider one");
    }
}

/// Index in `spec.http`, `.tls` or `.tcp` of the rule a route was made of, where it stands in the VirtualService itself.
fn rule_of(rule: &RuleRef, family: &str, own: &ObjectKey) -> Option<usize> {
    let here = rule.object.as_ref() == Some(own);
    let rest = rule.field.strip_prefix("spec.")?.strip_prefix(family)?.strip_prefix('[').filter(|_| here)?;
    rest.split(']').next()?.parse().ok()
}

/// Of equal length the first name counts; a longer one that matches counts before it, wherever it stands.
fn hides_names(former: &TlsRoute, later: &TlsRoute) -> bool {
    holds_wherever(&former.conditions, &later.conditions)
        && covers(&former.subnets, &later.subnets)
        && later.sni.iter().all(|name| former.sni.contains(name))
}

fn covers(former: &[IpNet], later: &[IpNet]) -> bool {
    former.is_empty() || (!later.is_empty() && later.iter().all(|net| former.iter().any(|wide| wide.contains(net))))
}

/// Whether every request that `later` takes is taken by `former`. May say no where it is so, never the reverse.
fn hides(former: &Route, later: &Route) -> bool {
    if !holds_wherever(&former.conditions, &later.conditions) {
        return false;
    }
    // All that the former asks for, the later asks for too, or for less of it.
    let (f, l) = (&former.matcher, &later.matcher);
    let same = |f: &Option<StringMatch>, l: &Option<StringMatch>| f.is_none() || f == l;
    let any_path = is_catch_all(&Matcher { path: f.path.clone(), ..Matcher::default() });
    (any_path || f.path == l.path || path_hides(f.path.as_ref(), l.path.as_ref()))
        && same(&f.scheme, &l.scheme)
        && same(&f.method, &l.method)
        && same(&f.authority, &l.authority)
        && f.headers.iter().all(|header| l.headers.contains(header))
        && f.query.iter().all(|query| l.query.contains(query))
}

fn holds_wherever(former: &Conditions, later: &Conditions) -> bool {
    let same = || {
        let of = |c: &Conditions| (c.port, c.source_namespace.clone(), c.source_labels.clone());
        of(former) == of(later)
    };
    later.gateways.iter().all(|gateway| former.gateways.contains(gateway)) && (is_unconditional(former) || same())
}

fn path_hides(former: Option<&PathMatch>, later: Option<&PathMatch>) -> bool {
    let (Some(PathMatch::Prefix { value, ignore_case: false }), Some(later)) = (former, later) else { return false };
    match later {
        PathMatch::Exact { value: other, ignore_case: false }
        | PathMatch::Prefix { value: other, ignore_case: false } => other.starts_with(&**value),
        _ => false,
    }
}
