//! Connections that are not HTTP, and those of which nobody said what they are.

use super::Conn;
use crate::addr::EndpointAddr;
use crate::balance::{self, ActiveRequest, Ask, RequestFacts, affinity};
use crate::connect::{Opaque, Stream, Way, Wire};
use crate::connections::{Connection, Speaks};
use crate::costs::{CONNECTION, Held};
use crate::destination::Target;
use crate::detect::{self, Replay, Sniff};
use crate::error::{ConnectError, Failure, Flag, Flags};
use crate::forward::{self, ForwardError};
use crate::listen::tls;
use crate::snapshot::policy::{Balancer, HashKey};
use crate::telemetry::access_log;
use crate::telemetry::{ConnectionKind, Passage, Trouble};
use crate::time::{self, Nanos};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use smallvec::SmallVec;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// An endpoint's connection and its place in the endpoint's count.
pub(super) struct Connected {
    opaque: Opaque,
    active: ActiveRequest,
}

/// A client whose bytes are forwarded.
pub(super) struct Client {
    pub(super) stream: ClientStream,
    /// What was read of it already.
    pub(super) first: Bytes,
    /// The name in its ClientHello, where it was read.
    pub(super) sni: Option<Arc<str>>,
}

pub(super) enum ClientStream {
    Plain(TcpStream),
    /// TLS ends here: a gateway's.
    Tls(Box<tls::TlsStream<Replay<TcpStream>>>),
}

impl ClientStream {
    /// What is below TLS.
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.io(),
        }
    }
}

impl Client {
    pub(super) fn plain(stream: TcpStream, first: Bytes, sni: Option<Arc<str>>) -> Self {
        Self { stream: ClientStream::Plain(stream), first, sni }
    }
}

/// How long a client on an undeclared port may take to show that it is an HTTP client, once no endpoint could be
/// connected: it gets an answer rather than a reset.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// How long a beginning that could become HTTP may stay alone on an undeclared port before it is passed on as it is. Slow
/// HTTP clients are served all the same, without what HTTP would give them.
const FRAGMENT: Duration = Duration::from_secs(1);

/// For a ClientHello whose name tells where a connection goes.
const HELLO: Duration = Duration::from_secs(10);

/// Bytes of a client in the mesh, sent where `tls` and `tcp` rules say, else where the connection was made for.
///
/// `first`: what was read from the client already; `tls`: it is, or will be, a ClientHello. `made`: an endpoint's
/// connection from before the name was known.
pub(super) async fn serve_mesh(
    conn: &Rc<Conn>,
    mut client: TcpStream,
    mut first: BytesMut,
    tls: bool,
    made: Option<(Rc<Target>, Connected)>,
) {
    let destinations = &conn.ctx.destinations;
    let mut sni = None;
    if tls && destinations.asks_for_name(&conn.source, &conn.wants) {
        // Whatever is wrong with the hello is the endpoint's to say; a broken socket is noticed when bytes are moved.
        let hello = tokio::time::timeout(HELLO, tls::hello(&mut client, &mut first)).await;
        sni = hello.ok().and_then(Result::ok).flatten();
    }
    let (target, connected) = match made {
        Some((target, connected)) if sni.is_none() => (Ok(target), Some(connected)),
        made => {
            let target = destinations.opaque(&conn.source, &conn.wants, sni.as_deref(), &mut conn.ctx.rng.borrow_mut());
            let same = |former: &Rc<Target>| target.as_ref().is_ok_and(|target| Rc::ptr_eq(target, former));
            let connected = made.filter(|(former, _)| same(former)).map(|(_, connected)| connected);
            (target, connected)
        }
    };
    match target {
        Ok(target) => serve(conn, &target, Client::plain(client, first.freeze(), sni), connected).await,
        Err(failure) => refuse(conn, &failure, sni.as_ref(), &client),
    }
}

/// Ends a connection that goes nowhere: counted, and logged, as what it was for. `sni`: the name in its ClientHello.
pub(super) fn refuse(conn: &Conn, failure: &Failure, sni: Option<&Arc<str>>, client: &TcpStream) {
    tracing::debug!(%failure, client = %conn.ends.client, to = %conn.ends.local, "connection refused");
    conn.ctx.recorder.metrics().trouble(Trouble::Upstream);
    conn.refused(failure, sni);
    forward::reset(client);
}

/// Forwards bytes. `made`: an endpoint's connection, where there is one already.
pub(super) async fn serve(conn: &Rc<Conn>, target: &Target, mut client: Client, made: Option<Connected>) {
    let metrics = conn.ctx.recorder.metrics();
    let _connection = metrics.connection(ConnectionKind::Opaque);
    conn.shown.set_speaks(Speaks::Opaque);
    let mut log = conn.opaque_entry(client.sni.as_ref());
    if let Some(log) = &mut log {
        log.cluster(&target.cluster_name);
    }
    let connected = match made {
        Some(connected) => Ok(connected),
        None => connect(conn, target).await,
    };
    let mut endpoint = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            failed(conn, target, &failure, log);
            return forward::reset(client.stream.socket());
        }
    };
    if let Some(log) = &mut log {
        let local = endpoint.opaque.link().local();
        log.connected(access_log::Connected { endpoint: endpoint.active.state().dialled().addr(), local });
    }
    let addr = endpoint.active.state().addr;
    let workload = || target.cluster.workload(addr);
    let series = conn.ctx.recorder.series(conn.source.workload.as_ref(), &target.callee, Some(addr), workload);
    let mut tap = conn.tapped_opaque();
    tap.iter_mut().for_each(|tap| tap.asks(endpoint.active.state().dialled().addr()));
    let mut passage = Passage::new(series, Arc::clone(&conn.shown), log, tap);
    passage.link = Some(Arc::clone(endpoint.opaque.link()));
    let _held = Held::new(CONNECTION);
    let settings = target.upstream.settings();
    let stream = &mut endpoint.opaque.stream;
    let mut forwarding = pin!(forward_bytes(&mut client, stream, settings.idle, &conn.shown));
    let over = settings.max_connection_age.map(|age| Instant::now() + time::jittered(age, fastrand::f64()));
    let result = loop {
        let report = Instant::now() + Passage::REPORT;
        let next = over.map_or(report, |over| over.min(report));
        match tokio::time::timeout_at(next, forwarding.as_mut()).await {
            Ok(result) => break result,
            // An end like any other: both sides see the close.
            Err(_) if over.is_some_and(|over| over <= next) => break Ok(()),
            Err(_) => passage.report(),
        }
    };
    passage.flags = match &result {
        Ok(()) => Flags::NONE,
        Err(ForwardError::Client(_)) => Flag::DC.into(),
        Err(ForwardError::Endpoint(_)) => Flag::UC.into(),
        Err(ForwardError::Idle(_)) => Flag::SI.into(),
    };
    drop(passage);
    match result {
        Ok(()) => {}
        Err(error @ (ForwardError::Idle(_) | ForwardError::Client(_) | ForwardError::Endpoint(_))) => {
            tracing::debug!(%error, to = %target.name, "opaque connection ended");
        }
    }
}

/// No endpoint could be connected.
fn failed(conn: &Conn, target: &Target, failure: &Failure, log: Option<access_log::Entry>) {
    tracing::debug!(%failure, to = %target.name, "no endpoint for an opaque connection");
    conn.ctx.recorder.metrics().trouble(Trouble::Upstream);
    conn.ended_by(failure, &target.callee, log);
}

/// By the quick way where there is no TLS; whose socket fails, the other one is reset.
async fn forward_bytes(
    client: &mut Client,
    endpoint: &mut Stream,
    idle: Duration,
    moved: &Connection,
) -> Result<(), ForwardError> {
    let first = std::mem::take(&mut client.first);
    // Boxed: plain connections do not pay for the size of the others.
    let result = match (&mut client.stream, &mut *endpoint) {
        (ClientStream::Plain(client), Stream::Plain(endpoint)) => {
            return forward::forward(client, endpoint, first, idle, moved).await;
        }
        (ClientStream::Plain(client), Stream::Tls(endpoint)) => {
            Box::pin(forward::relay(client, &mut **endpoint, first, idle, moved)).await
        }
        (ClientStream::Tls(client), endpoint) => {
            Box::pin(forward::relay(&mut **client, endpoint, first, idle, moved)).await
        }
    };
    match &result {
        Err(ForwardError::Client(_)) => forward::reset(endpoint.socket()),
        Err(ForwardError::Endpoint(_)) => forward::reset(client.stream.socket()),
        Err(ForwardError::Idle(_)) | Ok(()) => {}
    }
    result
}

/// The first bytes decide, from whichever side they come; the endpoint is connected meanwhile, since a server-first
/// protocol's client waits for it.
pub(super) async fn serve_undeclared(conn: &Rc<Conn>, mut client: TcpStream) {
    let mut first = BytesMut::new();
    let target = conn.ctx.destinations.opaque(&conn.source, &conn.wants, None, &mut conn.ctx.rng.borrow_mut());
    let target = match target {
        Ok(target) => target,
        Err(failure) => return refuse(conn, &failure, None, &client),
    };
    let (sniff, connected) = match race(conn, &target, &mut client, &mut first).await {
        Ok(decided) => decided,
        Err(Failure::ClientGone) => {
            conn.ctx.recorder.metrics().trouble(Trouble::Detect);
            return forward::reset(&client);
        }
        Err(failure) => {
            let mut log = conn.opaque_entry(None);
            if let Some(log) = &mut log {
                log.cluster(&target.cluster_name);
            }
            failed(conn, &target, &failure, log);
            return forward::reset(&client);
        }
    };
    let wire = match sniff {
        Sniff::Http1 => Wire::Http1,
        Sniff::Http2 => Wire::Http2,
        Sniff::Tls | Sniff::Opaque | Sniff::NeedMore => {
            let made = connected.map(|connected| (Rc::clone(&target), connected));
            if sniff != Sniff::Tls && made.is_none() {
                return serve(conn, &target, Client::plain(client, first.freeze(), None), None).await;
            }
            return serve_mesh(conn, client, first, sniff == Sniff::Tls, made).await;
        }
    };
    // Without a word about it in the handshake TLS carries HTTP/1.1; HTTP/2 has to be agreed on (RFC 9113 §3.2).
    let fits = wire == Wire::Http1 || !target.upstream.is_secured();
    if let Some(Connected { opaque, active }) = connected.filter(|_| fits) {
        let addr = active.state().dialled();
        conn.ctx.pools.adopt(conn.way(&target, addr), wire, opaque).await;
    }
    let io = Replay::new(first.freeze(), client, Arc::clone(&conn.shown));
    Rc::clone(conn).serve_http(sniff, io).await;
}

async fn race(
    conn: &Rc<Conn>,
    target: &Target,
    client: &mut TcpStream,
    first: &mut BytesMut,
) -> Result<(Sniff, Option<Connected>), Failure> {
    let mut connecting = pin!(connect(conn, target));
    let closed = |_| Failure::ClientGone;
    let connected = tokio::select! {
        // Half a preface read here is kept in `first`: reading is cancel-safe.
        sniff = detect::read(client, first) => return Ok((sniff.map_err(closed)?, None)),
        connected = connecting.as_mut() => connected,
    };
    match connected {
        Ok(mut connected) => {
            let sniff = tokio::select! {
                biased;
                sniff = decided(client, first) => sniff.map_err(closed)?,
                // The server speaks first, or has closed: either way it is not HTTP.
                () = readable(&mut connected.opaque.stream) => Sniff::Opaque,
            };
            Ok((sniff, Some(connected)))
        }
        Err(failure) => match tokio::time::timeout(LAST_CHANCE, detect::read(client, first)).await {
            Ok(Ok(sniff @ (Sniff::Http1 | Sniff::Http2))) => Ok((sniff, None)),
            _ => Err(failure),
        },
    }
}

/// An error is an end, and as good as a word.
async fn readable(stream: &mut Stream) {
    match stream {
        Stream::Plain(stream) => drop(stream.readable().await),
        // What is inside, which stays there: a server's session tickets are no word of its protocol.
        Stream::Tls(stream) => drop(stream.fill_buf().await),
    }
}

/// Reads until the protocol is known; a beginning that could be HTTP's (`HELO`) decides nothing by itself, and its client
/// may be waiting for an answer to it.
async fn decided(client: &mut TcpStream, first: &mut BytesMut) -> std::io::Result<Sniff> {
    loop {
        if first.is_empty() {
            client.readable().await?;
        }
        match tokio::time::timeout(FRAGMENT, detect::read(client, first)).await {
            Ok(sniff) => return sniff,
            // Readiness was a false alarm.
            Err(_) if first.is_empty() => {}
            Err(_) => return Ok(Sniff::Opaque),
        }
    }
}

/// Connects to an endpoint, to others where that fails: no byte was sent yet.
async fn connect(conn: &Conn, target: &Target) -> Result<Connected, Failure> {
    let ctx = &conn.ctx;
    let mut tried: SmallVec<[EndpointAddr; 4]> = SmallVec::new();
    let hash = source_hash(conn, target);
    loop {
        let ask = Ask { tried: &tried, hash, original: conn.wants.original(), now: Nanos::now(), ..Ask::default() };
        let chosen = target.cluster.pick(&ask, &mut ctx.rng.borrow_mut()).map_err(|_| Failure::NoEndpoint)?;
        let active = chosen.start(ask.now);
        let others = tried.len() < ctx.settings.max_retries as usize;
        let others = others && target.cluster.has_other(chosen.addr(), &tried, ask.now);
        match ctx.pools.opaque(Way { others, ..conn.way(target, chosen.dialled()) }).await {
            Ok(opaque) => {
                active.finished(balance::Ended::Connected, Nanos::now());
                return Ok(Connected { opaque, active });
            }
            Err(error) => {
                match error {
                    ConnectError::Socket(_) => {}
                    ConnectError::Overflow => return Err(error.into()),
                    _ => active.finished(balance::Ended::ConnectFailure, Nanos::now()),
                }
                tried.push(chosen.addr());
                if tried.len() > ctx.settings.max_retries as usize {
                    return Err(error.into());
                }
            }
        }
    }
}

/// Of all keys of a consistent hash, a connection has the source's address only (Envoy's `source_ip` of TCP's hash
/// policies).
fn source_hash(conn: &Conn, target: &Target) -> Option<u64> {
    let Balancer::ConsistentHash(hash) = &target.policy.balancer else { return None };
    if hash.key != HashKey::SourceIp {
        return None;
    }
    let (client, local) = (conn.ends.client, conn.ends.local);
    affinity(&hash.key, &RequestFacts { headers: &HeaderMap::new(), query: None, client, local }).hash
}
