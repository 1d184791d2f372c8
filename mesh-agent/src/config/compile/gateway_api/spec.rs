//! HTTPRoute and GRPCRoute seen as one: rules of matches, filters and backends.

use crate::config::resource::gateway_api::{
    BackendRef, Filter, GrpcMatch, GrpcRule, HttpMatch, HttpRetry, HttpRule, HttpTimeouts, ParentRef,
};
use crate::config::resource::{Object, Resource};
use std::sync::Arc;

pub(super) struct Spec<'a> {
    /// As a ReferenceGrant names it.
    pub(super) kind: &'static str,
    pub(super) parents: &'a [ParentRef],
    pub(super) hostnames: &'a [Arc<str>],
    pub(super) rules: Vec<Rule<'a>>,
}

pub(super) struct Rule<'a> {
    pub(super) matches: Matches<'a>,
    pub(super) filters: &'a [Filter],
    pub(super) backends: &'a [BackendRef],
    pub(super) timeouts: HttpTimeouts,
    pub(super) retry: Option<&'a HttpRetry>,
}

/// Empty: everything.
pub(super) enum Matches<'a> {
    Http(&'a [HttpMatch]),
    Grpc(&'a [GrpcMatch]),
}

impl<'a> Spec<'a> {
    pub(super) fn of(r: &'a Resource) -> Option<Self> {
        match &r.object {
            Object::HttpRoute(route) => Some(Self {
                kind: "HTTPRoute",
                parents: &route.spec.parent_refs,
                hostnames: &route.spec.hostnames,
                rules: route.spec.rules.iter().map(http).collect(),
            }),
            Object::GrpcRoute(route) => Some(Self {
                kind: "GRPCRoute",
                parents: &route.spec.parent_refs,
                hostnames: &route.spec.hostnames,
                rules: route.spec.rules.iter().map(grpc).collect(),
            }),
            _ => None,
        }
    }

    /// Every backend that a rule, a mirror or a backend's mirror names.
    pub(super) fn backends(&self) -> impl Iterator<Item = &'a BackendRef> {
        let mirrors =
            |filters: &'a [Filter]| filters.iter().filter_map(|f| Some(&f.request_mirror.as_ref()?.backend_ref));
        self.rules.iter().flat_map(move |rule| {
            let own = rule.backends.iter().flat_map(move |b| std::iter::once(b).chain(mirrors(&b.filters)));
            own.chain(mirrors(rule.filters))
        })
    }
}

fn http(rule: &HttpRule) -> Rule<'_> {
    Rule {
        matches: Matches::Http(&rule.matches),
        filters: &rule.filters,
        backends: &rule.backend_refs,
        timeouts: rule.timeouts,
        retry: rule.retry.as_ref(),
    }
}

fn grpc(rule: &GrpcRule) -> Rule<'_> {
    Rule {
        matches: Matches::Grpc(&rule.matches),
        filters: &rule.filters,
        backends: &rule.backend_refs,
        timeouts: HttpTimeouts::default(),
        retry: None,
    }
}
