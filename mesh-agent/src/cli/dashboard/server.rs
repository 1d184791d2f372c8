//! The console's paths: the page's files, the list of agents, and the questions that are passed on to one of them.

use super::assets;
use super::forward::{Line, Silent};
use super::guard::{Guard, Pass, Stranger};
use crate::admin::view::Failure;
use crate::cli::client::Agent;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) struct Console {
    pub(super) guard: Guard,
    /// The page knows them by their place in this list.
    pub(super) agents: Vec<Line>,
}

impl Console {
    pub(super) fn new(guard: Guard, agents: Vec<Agent>) -> Self {
        Self { guard, agents: agents.into_iter().map(Line::new).collect() }
    }
}

/// What may be asked of an agent: it answers, and changes nothing.
const QUESTIONS: &[(Method, &str)] = &[
    (Method::GET, "/status"),
    (Method::GET, "/endpoints"),
    (Method::GET, "/services"),
    (Method::GET, "/workloads"),
    (Method::GET, "/kernel"),
    (Method::GET, "/graph"),
    (Method::GET, "/diagnostics"),
    (Method::GET, "/connections"),
    (Method::POST, "/explain"),
    (Method::POST, "/seen"),
    (Method::POST, "/tap"),
];

/// Longest question, bytes.
const MAX_BODY: usize = 16 << 10;
/// A browser that has not sent its request by then is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors): accept does not fail faster than this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of every answer. Scripts, styles and connections are the console's own; nobody frames it, keeps it or learns its
/// address from it; there is no CORS.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

/// Answers until cancelled.
pub(super) async fn serve(listener: TcpListener, console: Arc<Console>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&console)));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, console: Arc<Console>) {
    let service = service_fn(|request| {
        let console = Arc::clone(&console);
        async move { Ok::<_, Infallible>(answer(request, &console).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a browser's connection ended");
    }
}

async fn answer(request: Request<Incoming>, console: &Console) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = match console.guard.check(&head) {
        Err(stranger) => turned_away(stranger),
        Ok(pass) => {
            let mut response = route(&head.method, head.uri.path(), body, &console.agents).await;
            if let Pass::First(cookie) = pass {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn route(method: &Method, path: &str, body: Incoming, agents: &[Line]) -> Response<Body> {
    if path == "/api/agents" {
        return only_get(method, || match serde_json::to_vec(&names(agents)) {
            Ok(list) => respond(StatusCode::OK, "application/json", list),
            Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        });
    }
    if let Some((agent, question)) = path.strip_prefix("/api/agents/").and_then(|rest| rest.split_once('/')) {
        return ask(method, agent, question, body, agents).await;
    }
    match assets::find(path) {
        Some(asset) => only_get(method, || respond(StatusCode::OK, asset.content_type(), asset.bytes)),
        None => failure(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn ask(method: &Method, agent: &str, question: &str, body: Incoming, agents: &[Line]) -> Response<Body> {
    let Some(line) = agent.parse().ok().and_then(|at: usize| agents.get(at)) else {
        return failure(StatusCode::NOT_FOUND, "no such agent; /api/agents lists them");
    };
    let known = |path: &str| path.strip_prefix('/') == Some(question);
    let Some((_, path)) = QUESTIONS.iter().find(|(takes, path)| known(path) && takes == method) else {
        let exists = QUESTIONS.iter().any(|(_, path)| known(path));
        let status = if exists { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
        return failure(status, "the console does not ask this; it reads, and changes nothing");
    };
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return failure(StatusCode::PAYLOAD_TOO_LARGE, "the question did not arrive, or is too long");
    };
    match line.ask(method.clone(), path, body.to_bytes()).await {
        Ok(response) => response,
        Err(silent) => {
            let status = match silent {
                Silent::Late => StatusCode::GATEWAY_TIMEOUT,
                Silent::Unreachable(_) | Silent::Pod(_) | Silent::Broken(_) => StatusCode::BAD_GATEWAY,
            };
            failure(status, &format!("the agent at {} does not answer: {silent}", line.agent))
        }
    }
}

fn names(agents: &[Line]) -> Vec<String> {
    agents.iter().map(|line| line.agent.to_string()).collect()
}

fn turned_away(stranger: Stranger) -> Response<Body> {
    let (status, text) = match stranger {
        Stranger::Host => (StatusCode::MISDIRECTED_REQUEST, "this is a console for 127.0.0.1 and localhost only"),
        Stranger::Site => (StatusCode::FORBIDDEN, "other sites' pages may not read the console"),
        Stranger::Secret => (
            StatusCode::UNAUTHORIZED,
            "open the whole address that `mesh-agent dashboard` printed: it ends in ?token=…\n\
             each start of it makes a new one",
        ),
    };
    respond(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn only_get(method: &Method, get: impl FnOnce() -> Response<Body>) -> Response<Body> {
    // hyper leaves the body of an answer to HEAD away.
    if matches!(*method, Method::GET | Method::HEAD) {
        return get();
    }
    let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "this path takes GET");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// As an agent says it, so that the page reads one form.
fn failure(status: StatusCode, error: &str) -> Response<Body> {
    // A struct of one string always serialises; an empty body would still carry the status.
    let body = serde_json::to_vec(&Failure { error: error.to_owned() }).unwrap_or_default();
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
