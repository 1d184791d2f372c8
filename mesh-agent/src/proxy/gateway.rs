//! Connections of gateway pods: which server, TLS or not, HTTP or bytes.

use super::opaque::{Client, ClientStream};
use super::{Conn, opaque};
use crate::detect::{Replay, Sniff};
use crate::error::Failure;
use crate::forward;
use crate::listen::{Wants, tls};
use crate::route::{self, split};
use crate::snapshot::L4Routes;
use crate::snapshot::gateway::{App, Server, Servers, Tls};
use crate::snapshot::route::BackendTo;
use crate::telemetry::Trouble;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// For the ClientHello and the handshake together.
const HANDSHAKE: Duration = Duration::from_secs(10);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Serves a connection to a gateway's port to its end.
pub(super) async fn serve(mut conn: Conn, port: u16, mut stream: TcpStream) {
    let Some(listener) = conn.ctx.destinations.gateway_listener(&conn.source, port) else {
        // The port was closed while the connection was on its way.
        return forward::reset(&stream);
    };
    let Servers::Tls(_) = &listener.servers else {
        let Some(server) = listener.server(None) else { return forward::reset(&stream) };
        return match &server.app {
            App::Http(_) => Rc::new(conn).serve_declared_http(stream, None).await,
            App::L4(routes) => serve_bytes(&Rc::new(conn), server, routes, None, stream, Bytes::new()).await,
        };
    };
    let mut first = BytesMut::new();
    let hello = tokio::time::timeout(HANDSHAKE, tls::hello(&mut stream, &mut first)).await;
    let Ok(Ok(sni)) = hello else { return refuse(&conn, &stream, "no ClientHello") };
    conn.wants = Wants::Gateway { port, sni: sni.clone() };
    let Some(server) = listener.server(sni.as_deref()) else { return refuse(&conn, &stream, "no server for the SNI") };
    match (&server.tls, &server.app) {
        (Tls::Terminate(_), App::Http(_)) => terminate(conn, server, stream, first.freeze()).await,
        (Tls::Terminate(_), App::L4(routes)) => {
            serve_inside(&Rc::new(conn), server, routes, stream, first.freeze()).await;
        }
        (Tls::Passthrough | Tls::None, App::L4(routes)) => {
            serve_bytes(&Rc::new(conn), server, routes, sni, stream, first.freeze()).await;
        }
        (Tls::Passthrough | Tls::None, App::Http(_)) => {
            refuse(&conn, &stream, "HTTP inside TLS that is not terminated");
        }
    }
}

/// HTTPS.
async fn terminate(mut conn: Conn, server: &Arc<Server>, stream: TcpStream, first: Bytes) {
    let stream = Replay::new(first, stream, Arc::clone(&conn.shown));
    let Some(stream) = handshake(&conn, server, true, stream).await else { return };
    conn.tls = true;
    let conn = Rc::new(conn);
    // HTTP/2 over TLS is agreed on by ALPN, always (RFC 9113 §3.2).
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    conn.serve_http(if http2 { Sniff::Http2 } else { Sniff::Http1 }, stream).await;
}

type Stream = tls::TlsStream<Replay<TcpStream>>;

async fn handshake(conn: &Conn, server: &Server, http: bool, stream: Replay<TcpStream>) -> Option<Stream> {
    let Tls::Terminate(tls) = &server.tls else { return None };
    let handshake = conn.ctx.tls.terminate(tls, http, stream);
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        failed => {
            let why =
                failed.map_or_else(|_| "too slow".to_owned(), |r| r.err().map(|e| e.to_string()).unwrap_or_default());
            tracing::debug!(client = %conn.ends.client, gateway = %server.gateway, why, "TLS handshake failed");
            conn.ctx.recorder.metrics().trouble(Trouble::Detect);
            None
        }
    }
}

/// Bytes as they come: TCP, or TLS that the endpoint terminates.
async fn serve_bytes(
    conn: &Rc<Conn>,
    server: &Server,
    routes: &[Arc<L4Routes>],
    sni: Option<Arc<str>>,
    stream: TcpStream,
    first: Bytes,
) {
    match destination(conn, server, routes, sni.as_deref()) {
        Ok(target) => opaque::serve(conn, &target, Client::plain(stream, first, sni), None).await,
        Err(failure) => opaque::refuse(conn, &failure, None, &stream),
    }
}

/// The bytes inside terminated TLS.
async fn serve_inside(conn: &Rc<Conn>, server: &Server, routes: &[Arc<L4Routes>], stream: TcpStream, first: Bytes) {
    let target = match destination(conn, server, routes, None) {
        Ok(target) => target,
        Err(failure) => return opaque::refuse(conn, &failure, None, &stream),
    };
    // What is inside is counted.
    let Some(stream) = handshake(conn, server, false, Replay::uncounted(first, stream)).await else { return };
    let client = Client { stream: ClientStream::Tls(Box::new(stream)), first: Bytes::new(), sni: None };
    opaque::serve(conn, &target, client, None).await;
}

/// # Errors
/// `NoRoute` where no rule takes the connection, `NoCluster` where its destination is not there.
fn destination(
    conn: &Conn,
    server: &Server,
    routes: &[Arc<L4Routes>],
    sni: Option<&str>,
) -> Result<Rc<crate::destination::Target>, Failure> {
    let port = conn.wants.port();
    let client = conn.source.client(&conn.wants);
    let facts = route::Facts { port, client, gateway: &server.gateway };
    let (routes, to) = (routes.iter().map(|routes| &**routes), Some(conn.ends.local.ip()));
    let rule = route::l4::of_server(routes, &facts, to, sni).ok_or(Failure::NoRoute)?;
    let chosen = split::weighted(rule.backends(), &mut conn.ctx.rng.borrow_mut()).ok_or(Failure::NoCluster)?;
    match &chosen.to {
        BackendTo::Service(to) => conn.ctx.destinations.backend(&conn.source, &conn.wants, to, port),
        BackendTo::Refused { status, .. } => Err(Failure::RefusedBackend(*status)),
    }
}

/// No server takes the connection.
fn refuse(conn: &Conn, stream: &TcpStream, why: &str) {
    tracing::debug!(client = %conn.ends.client, port = conn.wants.port(), why, "connection to a gateway refused");
    conn.ctx.recorder.metrics().trouble(Trouble::Detect);
    conn.refused(&Failure::NoRoute, None);
    forward::reset(stream);
}

/// What a gateway tells endpoints of its clients, who cannot be believed: their address after those they claim, and
/// the protocol they spoke.
pub(super) fn mark(conn: &Conn, headers: &mut HeaderMap) {
    let Wants::Gateway { .. } = conn.wants else { return };
    let own = conn.ends.client.ip().to_string();
    let mut chain: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    chain.push(&own);
    if let Ok(chain) = HeaderValue::try_from(chain.join(",")) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if conn.tls { "https" } else { "http" }));
}
