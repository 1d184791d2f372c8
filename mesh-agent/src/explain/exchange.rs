//! A request's way in the order of `proxy/exchange.rs`: rules, filters, action, destinations.

use super::filters::{cors_filter, forward_filters, header_filters};
use super::question::Speaks;
use super::view::{Backend, Explanation, Lookup, NearMiss, Retry, Verdict};
use super::{Asking, backend, l4, lookup, reference, verdict, words};
use crate::destination::resolve::{self, To};
use crate::destination::{self, Target};
use crate::error::Failure;
use crate::kernel::Taker;
use crate::route::{self, Facts, Head, cors, redirect};
use crate::snapshot::Protocol;
use crate::snapshot::gateway::{App, Server, Servers};
use crate::snapshot::route::{Action, BackendTo, Destination, Family, Forward, Redirect, Route, VirtualHost};
use http::StatusCode;
use std::rc::Rc;
use std::sync::Arc;

/// Rules and what goes with them: `destination::Routes` of a client in the mesh, or a gateway's.
pub(super) struct Routes<'a> {
    pub(super) host: &'a VirtualHost,
    pub(super) port: u16,
    pub(super) gateway: &'a str,
    pub(super) target: Option<&'a Rc<Target>>,
}

/// A client in the mesh, in the order of `proxy.rs`.
pub(super) fn in_mesh(asking: &Asking<'_>) -> Explanation {
    match asking.taker() {
        Taker::Nobody => return l4::left_alone(asking),
        Taker::Kernel => return l4::by_kernel(asking),
        Taker::Agent => {}
    }
    let connection = asking.destinations.connection(&asking.source, &asking.wants);
    let protocol = match &connection {
        Ok(target) => Some(target.protocol),
        Err(failure @ Failure::UnknownHost) if !asking.destinations.tells(asking.address.port()) => {
            return l4::refused(asking, failure);
        }
        Err(_) => None,
    };
    match (protocol, asking.asked.speaks) {
        (Some(Protocol::Tcp), _) => l4::opaque(asking, false),
        (Some(Protocol::Tls), _) | (_, Speaks::Tls) => l4::opaque(asking, true),
        (_, Speaks::Http) => of_http(asking),
        (Some(Protocol::Detect), Speaks::Tcp) => l4::opaque(asking, false),
        (Some(_), Speaks::Tcp) => l4::no_http(asking),
        (None, Speaks::Tcp) => l4::refused(asking, &Failure::UnknownHost),
    }
}

fn of_http(asking: &Asking<'_>) -> Explanation {
    let snapshot = asking.world.snapshot;
    let head = Head::of(&asking.asked.parts);
    let resolved = resolve::request(snapshot, &asking.client(), &asking.wants, head.authority);
    let mut notes = Vec::new();
    let lookup = lookup::of_request(asking, &resolved, &mut notes);
    let mut explanation = asking.blank(lookup, None);
    explanation.notes = notes;
    match asking.destinations.routes(&asking.source, &asking.wants, head.authority) {
        Ok(found) => {
            let destination::Routes { host, port, gateway, target, .. } = &*found;
            let routes = Routes { host, port: *port, gateway, target: target.as_ref() };
            asking.follow(&routes, &mut explanation);
        }
        Err(failure) => {
            let why = nobody(&resolved.to, head.authority);
            explanation.verdict = verdict::refused(&failure, &asking.asked.parts.headers, &why);
        }
    }
    explanation
}

/// A client of a gateway, from outside, in the order of `proxy/gateway.rs`.
pub(super) fn at_gateway(asking: &Asking<'_>, name: &str) -> Explanation {
    let head = Head::of(&asking.asked.parts);
    let server = match asking.server() {
        Ok(server) => server,
        Err(why) => {
            let mut explanation = asking.blank(lookup::of_gateway(head.authority, None), Some(name));
            explanation.verdict = verdict::reset(Some("NR".into()), &why);
            return explanation;
        }
    };
    if let App::L4(routes) = &server.app {
        return l4::at_gateway(asking, &server, routes);
    }
    if asking.asked.speaks == Speaks::Tcp {
        return l4::no_http(asking);
    }
    let found = asking.destinations.routes(&asking.source, &asking.wants, head.authority);
    let rules = found.as_ref().ok().map(|found| &*found.host);
    let mut explanation = asking.blank(lookup::of_gateway(head.authority, rules), Some(&server.gateway));
    match found {
        Ok(found) => {
            let destination::Routes { host, port, gateway, .. } = &*found;
            asking.follow(&Routes { host, port: *port, gateway, target: None }, &mut explanation);
        }
        Err(failure) => {
            let hosts: Vec<String> = match &server.app {
                App::Http(table) => table.iter().map(|(host, _)| host).collect(),
                App::L4(_) => Vec::new(),
            };
            let known = if hosts.is_empty() { "no host".into() } else { hosts.join(", ") };
            let why = format!(
                "no rule bound to {} is for host {}; there are rules for {known}",
                server.gateway, head.authority
            );
            explanation.verdict = verdict::refused(&failure, &asking.asked.parts.headers, &why);
        }
    }
    explanation
}

impl Asking<'_> {
    /// An explanation of nothing so far.
    pub(super) fn blank(&self, lookup: Lookup, gateway: Option<&str>) -> Explanation {
        Explanation {
            request: self.request(),
            source: self.source(gateway),
            lookup,
            near_misses: Vec::new(),
            rule: None,
            filters: Vec::new(),
            timeout_ms: None,
            retry: None,
            backends: Vec::new(),
            verdict: verdict::forwarded(String::new()),
            notes: Vec::new(),
        }
    }

    /// The server of the gateway pod that takes the connection, or why there is none.
    fn server(&self) -> Result<Arc<Server>, String> {
        let gateway = self.world.snapshot.gateway(&self.workload.key).ok_or("the pod serves no gateway")?;
        let port = self.address.port();
        let Some(listener) = gateway.listener(port) else {
            let ports: Vec<String> = gateway.listeners.iter().map(|listener| listener.port.to_string()).collect();
            return Err(format!("the gateway has no port {port}; it has {}", ports.join(", ")));
        };
        if matches!(listener.servers, Servers::Tls(_)) && !self.asked.https {
            return Err(format!("port {port} speaks TLS; ask with https:// or tls://"));
        }
        let sni = self.asked.sni.as_deref();
        let server = listener.server(sni).ok_or_else(|| match sni {
            Some(sni) => format!("no server of port {port} is for the SNI {sni}"),
            None => format!("no server of port {port} is for clients without SNI"),
        })?;
        match (&server.app, &listener.servers) {
            (App::Http(_), Servers::Plain(_)) if self.asked.https => {
                Err(format!("port {port} speaks no TLS; ask with http://"))
            }
            _ => Ok(Arc::clone(server)),
        }
    }

    /// What the rules do with the request.
    fn follow(&self, routes: &Routes<'_>, explanation: &mut Explanation) {
        let (parts, head) = (&self.asked.parts, Head::of(&self.asked.parts));
        let facts = Facts { port: routes.port, client: self.client(), gateway: routes.gateway };
        explanation.near_misses = self.near_misses(routes, &facts, &head);
        let Some(taken) = route::find(routes.host, &facts, &head) else {
            let why = format!("no rule of {} matches the request", routes.host.host);
            explanation.verdict = verdict::refused(&Failure::NoRoute, &parts.headers, &why);
            return;
        };
        explanation.rule = Some(reference::rule(self.world.compiler, taken));
        if let Some(cors) = &taken.cors {
            explanation.filters.push(cors_filter(cors, &head));
            if cors::preflight(cors, &head).is_some() {
                let summary = "the agent answers the CORS preflight itself".to_owned();
                explanation.verdict = verdict::answered(StatusCode::OK, None, summary);
                return;
            }
        }
        explanation.filters.extend(self.admission(taken));
        explanation.filters.extend(header_filters(taken));
        explanation.verdict = match &taken.action {
            Action::Respond(direct) => {
                let text = String::from_utf8_lossy(&direct.body).into_owned();
                let summary = format!("the rule answers by itself: HTTP {}", direct.status.as_u16());
                verdict::answered(direct.status, Some(text).filter(|text| !text.is_empty()), summary)
            }
            Action::Redirect(to) => self.redirected(to, taken, &facts, &head),
            Action::Forward(forward) => {
                explanation.filters.extend(forward_filters(forward));
                self.forward(routes, taken, forward, explanation)
            }
        };
        self.aborted(taken, explanation);
    }

    fn near_misses(&self, routes: &Routes<'_>, facts: &Facts<'_>, head: &Head<'_>) -> Vec<NearMiss> {
        let checked = routes.host.routes.iter().map(|route| (route, route::check(route, facts, head)));
        let tried = checked.map_while(|(route, check)| check.err().map(|why| (route, why)));
        tried.map(|(route, why)| reference::near_miss(self.world.compiler, route, &why)).collect()
    }

    fn redirected(&self, to: &Redirect, taken: &Route, facts: &Facts<'_>, head: &Head<'_>) -> Verdict {
        match redirect::location(to, taken.matcher.path.as_ref(), facts, head) {
            Some(location) => {
                let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                let summary = format!("HTTP {} to {location}", to.status.as_u16());
                verdict::answered(to.status, None, summary)
            }
            None => {
                let failure = Failure::BadRequest("malformed target");
                verdict::refused(&failure, &self.asked.parts.headers, "the redirect makes no location")
            }
        }
    }

    fn forward(&self, routes: &Routes<'_>, taken: &Route, forward: &Forward, into: &mut Explanation) -> Verdict {
        let headers = &self.asked.parts.headers;
        let timeouts = backend::timeouts(&self.asked.parts, forward);
        into.timeout_ms = timeouts.whole.map(words::millis);
        into.retry = forward.retry.as_deref().map(|policy| Retry {
            attempts: policy.attempts,
            on: words::retry_on(policy.on),
            statuses: policy.statuses.clone(),
            per_try_timeout_ms: timeouts.per_try.map(words::millis),
            backoff_ms: words::millis(policy.backoff),
        });
        let total = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        for to in &forward.backends {
            let mut backend = backend::unknown(to, routes.port, total);
            match self.target(routes, to).map_err(|failure| missing(failure, routes.host.family)) {
                Ok(target) => {
                    let why = self.describe(&mut backend, &target, self.affinity(&target));
                    backend.refusal = why.map(|why| verdict::refused(&Failure::NoEndpoint, headers, &why));
                }
                Err(failure) => {
                    backend.refusal = Some(verdict::refused(&failure, headers, &self.why_missing(to, routes.port)));
                }
            }
            match self.sent(taken, forward, to) {
                Ok(sent) => backend.sent = sent,
                Err(failure) => {
                    let why = "the rewrite makes no request that can be sent";
                    backend.refusal = Some(verdict::refused(&failure, headers, why));
                }
            }
            into.backends.push(backend);
        }
        let refused = |backend: &&Backend| backend.refusal.is_some();
        match into.backends.iter().find(|backend| backend.refusal.is_none()) {
            Some(good) => {
                for bad in into.backends.iter().filter(refused) {
                    let what = bad.refusal.as_ref().map_or("", |refusal| &refusal.summary);
                    into.notes.push(format!("{} % of the requests are refused: {what}", round(bad.percent)));
                }
                let others = into.backends.len() - into.backends.iter().filter(refused).count() - 1;
                verdict::forwarded(forwarded_to(good, others))
            }
            None => into.backends.iter().find_map(|backend| backend.refusal.clone()).unwrap_or_else(|| {
                let failure = Failure::RefusedBackend(StatusCode::INTERNAL_SERVER_ERROR);
                verdict::refused(&failure, headers, "the rule has no destination left")
            }),
        }
    }

    /// A fault for all requests is the end of each; one for some is a word of warning.
    fn aborted(&self, taken: &Route, explanation: &mut Explanation) {
        let Some(abort) = taken.fault.as_deref().and_then(|fault| fault.abort.as_ref()) else { return };
        if abort.share == 0 {
            return;
        }
        let what = format!("the rule's fault aborts {} % of the requests", round(words::percent(abort.share)));
        if abort.share >= 1_000_000 {
            let failure = Failure::FaultAbort(abort.with);
            explanation.verdict = verdict::refused(&failure, &self.asked.parts.headers, &what);
        } else {
            explanation.notes.push(format!("{what} with {}", words::abort(abort.with)));
        }
    }

    /// Why a destination has no cluster.
    pub(super) fn why_missing(&self, to: &crate::snapshot::route::Backend, port: u16) -> String {
        let snapshot = self.world.snapshot;
        let Destination { host, port: wanted, subset } = match &to.to {
            BackendTo::Refused { why, .. } => return why.to_string(),
            BackendTo::Service(to) => to,
        };
        let Some(service) = snapshot.service_by_host(&self.client(), host) else {
            return format!("the rule's destination {host} is no Service that the client can see");
        };
        let number = wanted.unwrap_or(port);
        if service.ports.len() != 1 || wanted.is_some() {
            let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
            if !service.ports.iter().any(|port| port.port == number) {
                return format!("{host} has no port {number}; it has {}", ports.join(", "));
            }
        }
        match subset {
            Some(subset) => format!("no DestinationRule that holds for the client defines subset {subset} of {host}"),
            None => format!("{host} cannot be reached"),
        }
    }
}

/// As in `proxy/exchange.rs`: a missing backend of the Gateway API is a 500.
fn missing(failure: Failure, family: Family) -> Failure {
    match failure {
        Failure::NoCluster if family == Family::GatewayApi => {
            Failure::RefusedBackend(StatusCode::INTERNAL_SERVER_ERROR)
        }
        other => other,
    }
}

/// Why a host has no rules and no destination.
pub(super) fn nobody(to: &To, host: &str) -> String {
    match to {
        To::Blocked => {
            format!("nobody declared {host}, and the client may reach only what is declared (REGISTRY_ONLY)")
        }
        To::Unknown(address) => format!("nobody declared {host}; it goes to {address} as if there were no mesh"),
        _ => format!("nothing is known of {host}"),
    }
}

pub(super) fn forwarded_to(backend: &Backend, others: usize) -> String {
    let usable = backend.endpoints.iter().filter(|e| e.priority.is_some() && !e.second && !e.ejected).count();
    let subset = backend.subset.as_ref().map(|subset| format!(" subset {subset}")).unwrap_or_default();
    let more = match others {
        0 => String::new(),
        1 => " and one other destination".into(),
        n => format!(" and {n} other destinations"),
    };
    let share = if others > 0 { format!(" ({} %)", round(backend.percent)) } else { String::new() };
    let endpoints = if usable == 1 { "endpoint" } else { "endpoints" };
    format!("forwarded to {}{subset}{share}, {usable} {endpoints}{more}", backend.to)
}

/// `33.3` for a third, `50` for a half.
pub(super) fn round(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}
