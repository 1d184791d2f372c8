//! What traces are told of requests.

use super::Conn;
use crate::destination::Routes;
use crate::listen::Wants;
use crate::snapshot::route::{Action, BackendTo, Forward, PathMatch, Route};
use crate::telemetry::trace::{Caller, Trace};
use http::request;

impl Conn {
    /// Gives a request its id; `None`: it is not recorded.
    pub(super) fn trace(&self, parts: &mut request::Parts) -> Option<Box<Trace>> {
        let request::Parts { headers, method, uri, version, .. } = parts;
        let caller = Caller {
            workload: self.source.workload.as_ref(),
            outside: matches!(self.wants, Wants::Gateway { .. }),
            tls: self.tls,
            client: self.ends.client,
            method,
            uri,
            version: *version,
        };
        self.ctx.tracer.begin(headers, caller, &mut self.ctx.rng.borrow_mut())
    }
}

/// Istio's name for what a route does: the one place it leads to, else the object that says so, its port and path.
pub(super) fn operation(routes: &Routes, route: &Route) -> String {
    let path = match &route.matcher.path {
        None => "/*".to_owned(),
        Some(PathMatch::Exact { value, .. }) => value.to_string(),
        Some(PathMatch::Prefix { value, .. } | PathMatch::SegmentPrefix(value)) => format!("{value}*"),
        Some(PathMatch::Regex(pattern)) => pattern.source().to_owned(),
    };
    let only = match &route.action {
        Action::Forward(Forward { backends, .. }) => match &backends[..] {
            [only] => match &only.to {
                BackendTo::Service(to) => Some(to),
                BackendTo::Refused { .. } => None,
            },
            _ => None,
        },
        Action::Respond(_) | Action::Redirect(_) => None,
    };
    match (only, &route.rule.object) {
        (Some(to), _) if !to.host.is_empty() => format!("{}:{}{path}", to.host, to.port.unwrap_or(routes.port)),
        (None, Some(object)) => format!("{}:{}{path}", object.name, routes.port),
        (_, _) => {
            let callee = routes.target.as_ref().map_or(&routes.callee, |target| &target.callee);
            format!("{}:{}{path}", callee.cluster(), routes.port)
        }
    }
}
