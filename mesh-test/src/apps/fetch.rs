//! A small curl for the scenarios: every answer with its status, headers and body, one JSON line each. Unlike `load`, an
//! answer of 4xx or 5xx is no failure here: scenarios want to look at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::body::Bytes;
use clap::Args;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

use super::SERVED_BY;
use super::dial::Dialer;
use super::event::emit;
use super::pod::key_value;

/// More of a body than this is not looked at.
const MOST_BODY: usize = 64 * 1024;

/// Arguments of `mesh-app fetch`.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// `http://host:port/path?query`
    url: Uri,
    /// A header, KEY=VALUE; repeat for more. `host` replaces the URL's.
    #[arg(long = "header", value_parser = key_value)]
    headers: Vec<(String, String)>,
    #[arg(long, default_value = "GET")]
    method: http::Method,
    #[arg(long, default_value = "")]
    data: String,
    /// Requests to make.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// At a time, each on a connection of its own.
    #[arg(long, default_value_t = 1)]
    concurrency: u64,
    /// A connection for each request.
    #[arg(long)]
    reconnect: bool,
    /// Milliseconds between an answer and the next request on a connection.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

/// An answer, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// 0: no answer.
    pub status: u16,
    /// Lower-case names; values of one name joined by a comma.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Empty where there is an answer.
    pub error: String,
    /// When it was asked for, since the first request.
    pub at_ms: f64,
    pub elapsed_ms: f64,
}

impl Reply {
    /// The pod that answered; empty: none said so.
    pub fn pod(&self) -> &str {
        self.headers.get(SERVED_BY).map_or("", String::as_str)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Fetches and prints every reply; true, whatever came.
///
/// # Errors
/// The URL has no host, or a header is not allowed.
pub async fn run(args: FetchArgs) -> anyhow::Result<bool> {
    fetch(args, emit).await?;
    Ok(true)
}

/// Makes the requests; `each` sees every reply as it comes.
///
/// # Errors
/// As [`run`].
pub async fn fetch(args: FetchArgs, mut each: impl FnMut(&Reply)) -> anyhow::Result<Vec<Reply>> {
    request(&args)?;
    let (args, left) = (Arc::new(args), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let (sender, mut replies) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..args.concurrency.max(1) {
        let (args, left, sender) = (args.clone(), left.clone(), sender.clone());
        tokio::spawn(async move {
            let mut held = None;
            while left.fetch_add(1, Ordering::Relaxed) < args.count {
                let at_ms = begun.elapsed().as_secs_f64() * 1000.0;
                let reply = one(&args, &mut held).await;
                if sender.send(Reply { at_ms, ..reply }).is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
            }
        });
    }
    drop(sender);
    let mut all = Vec::new();
    while let Some(reply) = replies.recv().await {
        each(&reply);
        all.push(reply);
    }
    Ok(all)
}

type Sender = SendRequest<Full<Bytes>>;

async fn one(args: &FetchArgs, held: &mut Option<Sender>) -> Reply {
    let begun = Instant::now();
    let open = held.take().filter(|sender| !sender.is_closed() && !args.reconnect);
    let limit = Duration::from_millis(args.timeout_ms);
    let exchange = async {
        let mut sender = match open {
            Some(sender) => sender,
            None => connect(&args.url).await?,
        };
        sender.ready().await?;
        let reply = read(sender.send_request(request(args)?).await?).await?;
        *held = Some(sender);
        anyhow::Ok(reply)
    };
    let done = tokio::time::timeout(limit, exchange).await;
    let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {limit:?}")));
    let reply = done.unwrap_or_else(|error| Reply { error: format!("{error:#}"), ..Reply::default() });
    Reply { elapsed_ms: begun.elapsed().as_secs_f64() * 1000.0, ..reply }
}

async fn connect(url: &Uri) -> anyhow::Result<Sender> {
    let host = url.host().context("the URL has no host")?;
    let stream = Dialer::default().connect(host, url.port_u16().unwrap_or(80)).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn request(args: &FetchArgs) -> anyhow::Result<Request<Full<Bytes>>> {
    let authority = args.url.authority().context("the URL has no host")?.as_str();
    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder().method(args.method.clone()).uri(path);
    if !args.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header(header::HOST, authority);
    }
    let builder = args.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
    builder.body(Full::new(Bytes::from(args.data.clone()))).context("the path or a header is not allowed")
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = headers.entry(name.to_string()).or_default();
        *all = if all.is_empty() { value.into_owned() } else { format!("{all},{value}") };
    }
    let body = String::from_utf8_lossy(&body[..body.len().min(MOST_BODY)]).into_owned();
    Ok(Reply { status: head.status.as_u16(), headers, body, ..Reply::default() })
}
