//! One request, from its head to its response, whoever makes that.

use super::attempts::{Answered, Attempts};
use super::deadline::{Begin, Deadline, Nearer};
use super::trace::operation;
use super::{Conn, gateway, mirror};
use crate::addr::EndpointAddr;
use crate::balance::{self, Affinity, RequestFacts};
use crate::body::{Body, GrpcWeb, Observed, Replay};
use crate::destination::{Routes, Target};
use crate::error::{Failure, Flag, LimitError, Outcome, Situation};
use crate::listen::Wants;
use crate::policy::timeout::Timeouts;
use crate::policy::{fault, hedge};
use crate::reply::{self, Place};
use crate::route::{self, cors, redirect, rewrite, split};
use crate::snapshot::Protocol;
use crate::snapshot::policy::Balancer;
use crate::snapshot::route::{Action, BackendTo, Family, Forward, Route};
use crate::telemetry::trace::Trace;
use crate::telemetry::{
    Callee, DIRECT_RESPONSE, Head, Meter, Record, Served, VIA_UPSTREAM, request_head, response_head,
};
use crate::time::Nanos;
use crate::{grpc, http1};
use http::header::SET_COOKIE;
use http::{Request, Response, request};
use smallvec::SmallVec;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

/// Takes 1xx heads on their way to the client; `None` where the client's protocol has no way for them.
pub(super) type Inform = Option<Box<dyn FnMut(Response<()>)>>;

/// From a request to its response.
///
/// A plain function: an async one would hold the request twice, whole and in parts, for as long as it runs.
pub(super) fn exchange(conn: Rc<Conn>, request: Request<Body>, inform: Inform) -> impl Future<Output = Response<Body>> {
    let started = Nanos::now();
    let (parts, body) = request.into_parts();
    run(conn, parts, body, inform, started)
}

async fn run(conn: Rc<Conn>, mut parts: request::Parts, body: Body, inform: Inform, started: Nanos) -> Response<Body> {
    gateway::mark(&conn, &mut parts.headers);
    let trace = conn.trace(&mut parts);
    let authority = route::Head::of(&parts).authority;
    let inside = !matches!(conn.wants, Wants::Gateway { .. });
    let routes = match conn.ctx.destinations.routes(&conn.source, &conn.wants, authority) {
        Ok(routes) => routes,
        Err(failure) => {
            // A gateway's clients may say anything (Istio: `disable_host_header_fallback`).
            let callee = Callee::undeclared(failure.destination(), Some(authority).filter(|_| inside));
            let answer = Answer::new(&conn, &parts, started, &callee.into(), trace);
            return answer.local(&failure, &parts, failure.destination(), None);
        }
    };
    let answer = Answer::new(&conn, &parts, started, &routes.callee, trace);
    if conn.ctx.ledger.is_full() {
        return answer.local(&LimitError::StalledBytes.into(), &parts, &routes.callee.host, None);
    }
    match route::find(&routes.host, &facts(&conn, &routes), &route::Head::of(&parts)) {
        Some(route) => take(&conn, &routes, route, &mut parts, body, inform, answer).await,
        None => answer.local(&Failure::NoRoute, &parts, &routes.callee.host, None),
    }
}

fn facts<'a>(conn: &'a Conn, routes: &'a Routes) -> route::Facts<'a> {
    route::Facts { port: routes.port, client: conn.source.client(&conn.wants), gateway: &routes.gateway }
}

/// What a route does with a request.
async fn take(
    conn: &Rc<Conn>,
    routes: &Routes,
    route: &Arc<Route>,
    parts: &mut request::Parts,
    body: Body,
    inform: Inform,
    mut answer: Answer,
) -> Response<Body> {
    answer.observed.record.route = Some(Arc::clone(route));
    if let Some(trace) = &mut answer.observed.record.trace {
        trace.operation(operation(routes, route));
    }
    let mut origin = None;
    if let Some(cors) = &route.cors {
        if let Some(fields) = cors::preflight(cors, &route::Head::of(parts)) {
            return answer.made(reply::empty(http::StatusCode::OK, fields));
        }
        origin = cors::allowed_origin(cors, &parts.headers);
    }
    let mut response = match admit(conn, route, &mut answer).await {
        Err(failure) => {
            let mut response = answer.local(&failure, parts, &routes.callee.host, None);
            if let (Failure::RateLimited { .. }, Some(limit)) = (&failure, &route.rate_limit) {
                limit.response_headers.iter().for_each(|change| rewrite::apply_one(response.headers_mut(), change));
            }
            response
        }
        Ok(()) => match &route.action {
            Action::Forward(forward) => forward_to(conn, routes, route, forward, parts, body, inform, answer).await,
            Action::Respond(direct) => answer.made(reply::direct(direct, &parts.headers)),
            Action::Redirect(to) => {
                let (facts, head) = (facts(conn, routes), route::Head::of(parts));
                match redirect::location(to, route.matcher.path.as_ref(), &facts, &head) {
                    Some(location) => answer.made(reply::redirect(to.status, location, &parts.headers)),
                    None => answer.local(&Failure::BadRequest("malformed target"), parts, &routes.callee.host, None),
                }
            }
        },
    };
    if !matches!(route.action, Action::Forward(_)) {
        rewrite::response(response.headers_mut(), route, None);
    }
    if let (Some(cors), Some(origin)) = (&route.cors, origin) {
        cors::response(cors, origin, response.headers_mut());
    }
    response
}

/// Rate limit and faults, in the order of Envoy's filters.
async fn admit(conn: &Conn, route: &Route, answer: &mut Answer) -> Result<(), Failure> {
    let ctx = &conn.ctx;
    if let Some(limit) = &route.rate_limit {
        let source = conn.source.workload.as_ref().map(|workload| &workload.key);
        if !ctx.buckets.admit(limit, source, answer.observed.record.started, &mut ctx.rng.borrow_mut()) {
            return Err(Failure::RateLimited { resource_exhausted: limit.resource_exhausted });
        }
    }
    if let Some(rule) = &route.fault {
        let drawn = fault::draw(rule, &mut ctx.rng.borrow_mut());
        if let Some(delay) = drawn.delay {
            answer.observed.record.flags.insert(Flag::DI);
            tokio::time::sleep(delay).await;
        }
        if let Some(with) = drawn.abort {
            return Err(Failure::FaultAbort(with));
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
async fn forward_to(
    conn: &Rc<Conn>,
    routes: &Routes,
    route: &Route,
    forward: &Forward,
    parts: &mut request::Parts,
    mut body: Body,
    mut inform: Inform,
    mut answer: Answer,
) -> Response<Body> {
    let ctx = &conn.ctx;
    let Some(backend) = split::backend(forward, &mut ctx.rng.borrow_mut()) else {
        let failure = Failure::RefusedBackend(http::StatusCode::INTERNAL_SERVER_ERROR);
        return answer.local(&failure, parts, &routes.callee.host, None);
    };
    let target = match &backend.to {
        BackendTo::Refused { status, .. } => Err(Failure::RefusedBackend(*status)),
        BackendTo::Service(to) => match &routes.target {
            Some(target) if routes.host.family == Family::Default && to.host.is_empty() => Ok(Rc::clone(target)),
            _ => ctx.destinations.backend(&conn.source, &conn.wants, to, routes.port),
        },
    };
    let target = match target {
        Ok(target) => target,
        Err(Failure::NoCluster) if routes.host.family == Family::GatewayApi => {
            let failure = Failure::RefusedBackend(http::StatusCode::INTERNAL_SERVER_ERROR);
            return answer.local(&failure, parts, &routes.callee.host, None);
        }
        Err(failure) => return answer.local(&failure, parts, &routes.callee.host, None),
    };
    let web = GrpcWeb::of(&parts.headers).filter(|_| matches!(target.protocol, Protocol::Grpc | Protocol::GrpcWeb));
    if let Some(web) = web {
        let head = std::mem::replace(parts, Request::new(()).into_parts().0);
        (*parts, body) = web.request(Request::from_parts(head, body)).into_parts();
    }
    let retry = forward.retry.as_deref();
    let timeouts = Timeouts::new(forward.timeout, retry.and_then(|policy| policy.per_try_timeout), &parts.headers);
    let begin = if timeouts.from_start { Begin::Now } else { Begin::RequestEnd };
    let affinity = affinity(conn, &target, parts);
    let hedged = |hedge: &&_| hedge::applies(hedge, parts.method.as_str(), parts.uri.path(), &parts.headers);
    let hedge = forward.hedge.as_deref().filter(hedged);
    if let Err(failure) = rewrite::request(parts, route, forward, backend) {
        return answer.local(&failure, parts, &target.name, None);
    }
    answer.observed.record.grpc = grpc::is_grpc(&parts.headers);
    answer.observed.record.request =
        (!matches!(body, Body::Empty)).then(|| Rc::new(Meter::new(answer.observed.record.grpc)));
    let replay = answer.observed.record.request.as_ref();
    let replay = replay.map(|meter| Replay::new(body, ctx.settings.replay_bytes, Rc::clone(meter)));
    if let Some(log) = &mut answer.observed.record.log {
        if web.is_some() || rewrite::changes(route, forward, backend) {
            log.head(parts);
        }
        log.cluster(&target.cluster_name);
    }
    if let Some(trace) = &mut answer.observed.record.trace {
        trace.cluster(&target.callee, target.cluster.key());
    }
    for mirror in split::mirrors(forward, backend, &mut ctx.rng.borrow_mut()) {
        mirror::send(conn, mirror, routes.port, parts, replay.as_ref());
    }
    let upgrade = http1::Upgrade::of_request(parts);
    let now = Nanos::now();
    let (mut deadline, nearer) = (Deadline::new(timeouts.whole, begin, now), Nearer::default());
    let mut attempts = Attempts {
        conn,
        target: &target,
        callee: if target.callee.undeclared { &routes.callee } else { &target.callee },
        parts,
        replay: replay.as_ref(),
        retry,
        // What an upgraded connection carries cannot be sent twice.
        hedge: hedge.filter(|_| upgrade.is_none()),
        hash: affinity.hash,
        timeouts,
        started: answer.observed.record.started,
        upgrade,
        inform: &mut inform,
        record: &mut answer.observed.record,
        endpoint: None,
        underway: SmallVec::new(),
        nearer: &nearer,
    };
    let result = deadline.limit(&ctx.alarms, replay.as_ref(), &nearer, pin!(attempts.run(now))).await;
    if matches!(result, Err(Failure::Timeout)) {
        attempts.timed_out();
    }
    let endpoint = attempts.endpoint;
    if let Some(replay) = &replay {
        replay.settle();
    }
    let mut response = match result {
        Ok(answered) => answer.endpoints(answered, deadline),
        Err(failure) => answer.local(&failure, parts, &target.name, endpoint),
    };
    if let Some(web) = web {
        response = web.response(response);
    }
    rewrite::response(response.headers_mut(), route, Some((forward, backend)));
    if let Some(cookie) = affinity.set_cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// The request's place among the endpoints, where the policy wants one.
fn affinity(conn: &Conn, target: &Target, parts: &request::Parts) -> Affinity {
    let Balancer::ConsistentHash(hash) = &target.policy.balancer else { return Affinity::default() };
    let facts = RequestFacts {
        headers: &parts.headers,
        query: parts.uri.query(),
        client: conn.ends.client,
        local: conn.ends.local,
    };
    balance::affinity(&hash.key, &facts)
}

/// The record of a request on its way to a response.
struct Answer {
    observed: Box<Observed>,
    /// The client is in the mesh, not a gateway's.
    inside: bool,
}

impl Answer {
    fn new(
        conn: &Conn,
        parts: &request::Parts,
        started: Nanos,
        callee: &Arc<Callee>,
        trace: Option<Box<Trace>>,
    ) -> Self {
        let series = conn.ctx.recorder.series(conn.source.workload.as_ref(), callee, None, || None);
        let mut record = Record::new(series, started);
        record.grpc = grpc::is_grpc(&parts.headers);
        record.request_head = request_head(parts);
        record.head = conn.ctx.recorder.keeps_heads().then(|| Box::new(Head::of(parts)));
        record.log = conn.entry(parts, started);
        record.tap = conn.tapped(parts);
        record.trace = trace;
        Self { observed: Observed::new(record), inside: !matches!(conn.wants, Wants::Gateway { .. }) }
    }

    /// An answer that is nobody's failure: a redirect, a direct response, a preflight.
    fn made(mut self, response: Response<Body>) -> Response<Body> {
        let record = &mut self.observed.record;
        (record.outcome, record.details) = (Outcome::Local, DIRECT_RESPONSE);
        self.own(&response);
        response
    }

    /// An answer in an endpoint's place. `to`: where the request was headed.
    fn local(
        mut self,
        failure: &Failure,
        request: &request::Parts,
        to: &str,
        endpoint: Option<EndpointAddr>,
    ) -> Response<Body> {
        let answer = failure.answer();
        let place = if self.inside { Place::Mesh { to, endpoint } } else { Place::Gateway };
        let record = &mut self.observed.record;
        let response = reply::local(failure, &request.headers, place, record.attempts > 1);
        record.flags |= answer.flags;
        (record.outcome, record.details) = (answer.outcome, answer.details);
        self.own(&response);
        if failure.situation() == Situation::ClientGone {
            // It is made, but there is nobody to send it to.
            (self.observed.record.code, self.observed.record.grpc_status) = (None, None);
        }
        response
    }

    /// The end of a request that no endpoint answered.
    fn own(&mut self, response: &Response<Body>) {
        let record = &mut self.observed.record;
        record.code = Some(response.status());
        record.read_grpc_status(response.headers());
        record.complete = true;
        record.response_head = response_head(response.headers());
        if let Body::Full(text) = response.body() {
            record.response.count(text);
        }
        if let Some(log) = &mut record.log {
            log.answered(response.headers());
        }
    }

    /// An endpoint's answer; the record follows its body to the end.
    fn endpoints(mut self, answered: Answered, deadline: Deadline) -> Response<Body> {
        let Answered { response, served, at } = answered;
        let record = &mut self.observed.record;
        record.served = served;
        record.answered = Some(at);
        record.response_head = response_head(response.headers());
        record.response = Meter::new(record.grpc);
        record.code = Some(response.status());
        record.details = VIA_UPSTREAM;
        record.read_grpc_status(response.headers());
        if let Some(log) = &mut record.log {
            log.answered(response.headers());
            record.served.as_ref().and_then(Served::connected).into_iter().for_each(|ends| log.connected(ends));
        }
        if response.body().is_end() {
            record.complete = true;
            return response;
        }
        let observed = self.observed;
        response.map(|body| observed.body(body, deadline.into_due()))
    }
}
