//! HTTP/2 endpoints that remember what they were asked and answer as the request says.

use super::{endpoint, trailers};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What the request wants of whoever gets it first; later attempts are answered with 200.
///
/// `status=503`, `status=503;x-envoy-ratelimited`, `grpc=14` (trailers-only), `trailers=14` (after data), `reset=2` (an
/// HTTP/2 error code), `hold` (no answer), `later=503` (later attempts wait at the gate). `wait`: at the gate, always;
/// `at=NAME:503`, `at=NAME:reset`, `at=NAME:slow` (after [`SLOW`]): always, of the endpoint with this name.
pub const DO: &str = "x-do";

pub const SLOW: Duration = Duration::from_millis(500);

pub struct Scripted {
    pub addr: SocketAddr,
    pub gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request, and the number of the connection it came on.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: Arc<Request<()>>,
    pub connection: usize,
    pub at: Instant,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.head.uri().path_and_query().map_or("", |path| path.as_str())
    }

    /// Empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.head.headers().get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

impl Scripted {
    /// Its answers say `x-endpoint: name`.
    pub async fn start(name: &'static str) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let gate = Arc::new(Semaphore::new(0));
        let (all, open) = (Arc::clone(&seen), Arc::clone(&gate));
        let addr = endpoint(move |connection, mut requests| {
            let (all, open) = (Arc::clone(&all), Arc::clone(&open));
            async move {
                while let Some(Ok((request, respond))) = requests.accept().await {
                    let (parts, _) = request.into_parts();
                    let head = Arc::new(Request::from_parts(parts, ()));
                    all.lock().unwrap().push(Seen { head: Arc::clone(&head), connection, at: Instant::now() });
                    tokio::spawn(answer(name, head, respond, Arc::clone(&open)));
                }
            }
        })
        .await;
        Self { addr, gate, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("nothing was asked")
    }

    /// Waits until it was asked so often.
    pub async fn has(&self, count: usize) {
        super::until("requests", || self.seen().len() >= count).await;
    }
}

async fn answer(
    name: &'static str,
    head: Arc<Request<()>>,
    mut respond: h2::server::SendResponse<Bytes>,
    gate: Arc<Semaphore>,
) {
    let field = |name: &str| head.headers().get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    let (what, first) = (field(DO), matches!(&*field("x-envoy-attempt-count"), "" | "1"));
    let (verb, value) = what.split_once('=').unwrap_or((&what, ""));
    let (verb, value) = match (verb, value.split_once(':')) {
        ("at", Some((at, "reset"))) if at == name => ("reset", "2"),
        ("at", Some((at, "slow"))) if at == name => ("slow", ""),
        ("at", Some((at, status))) if at == name => ("status", status),
        ("at", _) => ("", ""),
        ("wait", _) => ("wait", ""),
        ("later", _) if !first => ("wait", ""),
        ("later", _) => ("status", value),
        _ if first => (verb, value),
        _ => ("", ""),
    };
    let (value, mark) = value.split_once(';').unwrap_or((value, ""));
    let mut response = Response::builder().header("x-endpoint", name).header("content-type", "application/grpc");
    if !mark.is_empty() {
        response = response.header(mark, "true");
    }
    let mut ended = "0";
    match verb {
        "hold" => return tokio::time::sleep(Duration::from_secs(60)).await,
        "wait" => gate.acquire().await.expect("never closed").forget(),
        "slow" => tokio::time::sleep(SLOW).await,
        "reset" => return respond.send_reset(Reason::from(value.parse::<u32>().expect("a code"))),
        "grpc" => {
            let response = response.header("grpc-status", value).body(()).expect("valid");
            let _ = respond.send_response(response, true);
            return;
        }
        "trailers" => ended = if value == "14" { "14" } else { "13" },
        "status" => response = response.status(value.parse::<u16>().expect("a status")),
        _ => {}
    }
    let Ok(mut send) = respond.send_response(response.body(()).expect("valid"), false) else { return };
    let _ = send.send_data(Bytes::from_static(b"hi"), false);
    let _ = send.send_trailers(trailers(ended));
}
