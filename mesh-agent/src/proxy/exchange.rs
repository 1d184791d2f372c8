//! One request and its attempts.

use super::Conn;
use crate::addr::EndpointAddr;
use crate::balance::{ActiveRequest, Ask, Ended};
use crate::body::{Body, Observed, Replay};
use crate::connect::Way;
use crate::destination::Target;
use crate::error::{ConnectError, Failure, LimitError, UpstreamError};
use crate::snapshot::Protocol;
use crate::telemetry::Record;
use crate::time::Nanos;
use crate::{grpc, http1, reply};
use http::header::HOST;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version, request};
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::time::Sleep;

/// Takes 1xx heads on their way to the client; `None` where the client's protocol has no way for them.
pub(super) type Inform = Option<Box<dyn FnMut(Response<()>)>>;

/// A failed attempt, with what another one needs.
struct Failed {
    failure: Failure,
    /// `None` where the request is not in our hands any more.
    again: Option<Box<Request<Body>>>,
}

/// From a request to its response, whoever makes it.
pub(super) async fn exchange(conn: Rc<Conn>, mut request: Request<Body>, mut inform: Inform) -> Response<Body> {
    let started = Nanos::now();
    let ctx = &conn.ctx;
    let target = match ctx.destinations.target(&conn.wants) {
        Ok(target) => target,
        Err(failure) => return reply::local(&failure, request.headers(), "unknown destination", None, false),
    };
    let series = ctx.recorder.series(conn.source.workload.as_ref(), &target.service, None);
    let mut record = Record::new(series, started);
    if ctx.ledger.is_full() {
        return answer(&LimitError::StalledBytes.into(), &request, &target, None, record);
    }
    let timeout = request.headers().get(grpc::GRPC_TIMEOUT).and_then(|value| grpc::parse_timeout(value.as_bytes()));
    let mut deadline = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
    if !matches!(request.body(), Body::Empty) {
        let limit = ctx.settings.replay_bytes;
        request = request.map(|body| Body::Replay(Box::new(Replay::new(body, limit))));
    }
    let fields = FieldsForReply::of(&request);
    let mut tried: SmallVec<[EndpointAddr; 4]> = SmallVec::new();
    let mut refused = 0;
    loop {
        let now = Nanos::now();
        let ask = Ask { tried: &tried, now, ..Ask::default() };
        let chosen = target.cluster.pick(&ask, &mut ctx.rng.borrow_mut());
        let Ok(chosen) = chosen else { return fields.answer(&Failure::NoEndpoint, &target, None, record) };
        let endpoint = chosen.addr();
        record.series = ctx.recorder.series(conn.source.workload.as_ref(), &target.service, Some(endpoint));
        record.attempts += 1;
        if let Body::Replay(replay) = request.body_mut() {
            replay.count_for(Rc::clone(&record.series));
        }
        if let Some(timeout) = timeout {
            let left = timeout.saturating_sub(now.since(started));
            request.headers_mut().insert(grpc::GRPC_TIMEOUT, grpc::format_timeout(left));
        }
        let active = chosen.start(now);
        let others = tried.len() - refused < ctx.settings.max_retries as usize;
        let others = others && target.cluster.has_other(endpoint, &tried, now);
        let way = Way { others, ..conn.way(&target, endpoint) };
        let attempt = attempt(&conn, &target, way, request, &mut inform);
        let failed = match until(&mut deadline, attempt).await {
            Ok(response) => {
                return observe(response, record, active, deadline);
            }
            Err(failed) => failed,
        };
        match &failed.failure {
            Failure::Connect(ConnectError::Socket(_) | ConnectError::Overflow) => {}
            Failure::Connect(_) => active.finished(Ended::ConnectFailure, Nanos::now()),
            Failure::Upstream(UpstreamError::Aborted | UpstreamError::Stalled) => {}
            Failure::Upstream(_) => active.finished(Ended::Reset, Nanos::now()),
            Failure::Timeout => active.finished(Ended::Timeout, Nanos::now()),
            _ => {}
        }
        drop(active);
        // A refusal costs a round trip and says that the pod has gone. When a Deployment shrinks most of its endpoints
        // refuse at once, so the first refusal of each is no attempt: 4 of 5 refusing leave 3 attempts for the fifth.
        if matches!(failed.failure, Failure::Connect(ConnectError::Refused)) && !tried.contains(&endpoint) {
            refused += 1;
        }
        tried.push(endpoint);
        let retry = failed.failure.answer().retryable && tried.len() - refused <= ctx.settings.max_retries as usize;
        let again = failed.again.filter(|_| retry).and_then(|again| rewound(*again));
        match again {
            Some(again) => {
                ctx.recorder.metrics().retried();
                request = again;
            }
            None => return fields.answer(&failed.failure, &target, Some(endpoint), record),
        }
    }
}

/// What a local answer needs of a request that is gone.
struct FieldsForReply {
    headers: http::HeaderMap,
}

impl FieldsForReply {
    fn of(request: &Request<Body>) -> Self {
        let mut headers = http::HeaderMap::new();
        if let Some(value) = request.headers().get(http::header::CONTENT_TYPE) {
            headers.insert(http::header::CONTENT_TYPE, value.clone());
        }
        Self { headers }
    }

    fn answer(
        &self,
        failure: &Failure,
        target: &Target,
        endpoint: Option<EndpointAddr>,
        mut record: Record,
    ) -> Response<Body> {
        let answer = failure.answer();
        let response = reply::local(failure, &self.headers, &target.name, endpoint, record.attempts > 1);
        record.code = Some(response.status());
        record.flags |= answer.flags;
        record.outcome = answer.outcome;
        record.read_grpc_status(response.headers());
        record.complete = true;
        response
    }
}

fn answer(
    failure: &Failure,
    request: &Request<Body>,
    target: &Target,
    endpoint: Option<EndpointAddr>,
    record: Record,
) -> Response<Body> {
    FieldsForReply::of(request).answer(failure, target, endpoint, record)
}

/// The record follows the response's body to its end.
fn observe(
    response: Response<Body>,
    mut record: Record,
    active: ActiveRequest,
    deadline: Option<Pin<Box<Sleep>>>,
) -> Response<Body> {
    record.code = Some(response.status());
    record.read_grpc_status(response.headers());
    active.finished(
        Ended::Response { status: response.status().as_u16(), grpc_status: record.grpc_status },
        Nanos::now(),
    );
    if response.body().is_end() {
        record.complete = true;
        return response;
    }
    response.map(|body| Body::Observed(Box::new(Observed::new(body, record, active, deadline))))
}

/// One attempt at one endpoint.
async fn attempt(
    conn: &Conn,
    target: &Target,
    way: Way<'_>,
    request: Request<Body>,
    inform: &mut Inform,
) -> Result<Response<Body>, Failed> {
    // On `http` ports the upstream follows the client; `http2` and `grpc` ports speak HTTP/2 whatever the client does.
    let http2 = request.version() == Version::HTTP_2 || matches!(target.protocol, Protocol::Http2 | Protocol::Grpc);
    if http2 { attempt_http2(conn, way, request, inform).await } else { attempt_http1(conn, way, request).await }
}

async fn attempt_http2(
    conn: &Conn,
    way: Way<'_>,
    request: Request<Body>,
    inform: &mut Inform,
) -> Result<Response<Body>, Failed> {
    let connected = conn.ctx.pools.http2(way).await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return Err(Failed { failure: error.into(), again: Some(Box::new(request)) }),
    };
    let (parts, body) = request.into_parts();
    let head = match http2_head(&parts) {
        Ok(head) => head,
        Err(failure) => return Err(Failed { failure, again: None }),
    };
    let mut call = match connection.send(head, body) {
        Ok(call) => call,
        Err((error, body)) => {
            return Err(Failed { failure: error.into(), again: Some(Box::new(Request::from_parts(parts, body))) });
        }
    };
    let response = poll_fn(|cx| {
        call.poll_response(cx, &mut |head| {
            if let Some(inform) = inform {
                inform(head);
            }
        })
    })
    .await;
    response.map_err(|error| {
        let again = Request::from_parts(parts, call.into_request_body());
        Failed { failure: error.into(), again: Some(Box::new(again)) }
    })
}

async fn attempt_http1(conn: &Conn, way: Way<'_>, mut request: Request<Body>) -> Result<Response<Body>, Failed> {
    let connected = conn.ctx.pools.http1(way).await;
    let sender = match connected {
        Ok(sender) => sender,
        Err(error) => return Err(Failed { failure: error.into(), again: Some(Box::new(request)) }),
    };
    let upgrade = http1::wants_upgrade(&request).then(|| http1::Upgrade::of_request(&mut request));
    http1::strip_hop_by_hop(request.headers_mut(), upgrade.is_some());
    let method = request.method().clone();
    *request.version_mut() = Version::HTTP_11;
    let mut response = match sender.send(request).await {
        Ok(response) => response,
        Err((error, again)) => return Err(Failed { failure: error.into(), again: again.map(Box::new) }),
    };
    let endpoint_side = http1::Upgrade::of_response(&mut response, &method);
    let switched = endpoint_side.is_some();
    if let (Some(client), Some(endpoint)) = (upgrade, endpoint_side) {
        http1::tunnel(client, endpoint);
    }
    http1::strip_hop_by_hop(response.headers_mut(), switched);
    Ok(response)
}

/// The head for an HTTP/2 endpoint: of an HTTP/2 client as it is, of an HTTP/1.1 client translated (RFC 9113 §8.3.1).
fn http2_head(parts: &request::Parts) -> Result<Request<()>, Failure> {
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = parts.headers.clone();
    if parts.version == Version::HTTP_2 {
        *head.uri_mut() = parts.uri.clone();
        // Extended CONNECT's `:protocol` (RFC 8441) travels as an extension.
        *head.extensions_mut() = parts.extensions.clone();
        return Ok(head);
    }
    if parts.method == Method::CONNECT {
        return Err(Failure::BadRequest("CONNECT is not translated to HTTP/2"));
    }
    http1::strip_hop_by_hop(head.headers_mut(), false);
    let host = head.headers_mut().remove(HOST);
    let authority = match (parts.uri.authority(), &host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest("malformed host"))?
        }
        (None, None) => return Err(Failure::BadRequest("no host")),
    };
    let mut uri = Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| Failure::BadRequest("malformed target"))?;
    Ok(head)
}

/// The request as it was before the attempt, where enough of it was kept.
fn rewound(mut request: Request<Body>) -> Option<Request<Body>> {
    match request.body_mut() {
        Body::Replay(replay) => replay.rewind().then_some(request),
        Body::Empty => Some(request),
        _ => None,
    }
}

/// Runs an attempt until the request's own timeout.
async fn until(
    deadline: &mut Option<Pin<Box<Sleep>>>,
    attempt: impl Future<Output = Result<Response<Body>, Failed>>,
) -> Result<Response<Body>, Failed> {
    let mut attempt = std::pin::pin!(attempt);
    poll_fn(|cx| {
        if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        match deadline {
            Some(sleep) => sleep.as_mut().poll(cx).map(|()| Err(Failed { failure: Failure::Timeout, again: None })),
            None => Poll::Pending,
        }
    })
    .await
}
