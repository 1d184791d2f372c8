//! The order of the stages.
//!
//! Place in the path: a worker calls `serve` for each connection; everything from the first byte to the last record
//! happens below it. Invariant: stages do not know one another; this module hands plain values from one to the next.

mod attempt;
mod attempts;
mod deadline;
mod exchange;
mod gateway;
mod http2;
mod life;
mod log;
mod mirror;
mod opaque;
mod race;
mod trace;

use crate::addr::EndpointAddr;
use crate::connect::{Ends, Way};
use crate::connections::{Connection, Speaks};
use crate::destination::Target;
use crate::detect::{self, Replay, Sniff};
use crate::error::Failure;
use crate::listen::{Accepted, Source, Wants};
use crate::snapshot::Protocol;
use crate::telemetry::{ConnectionKind, Trouble};
use crate::{forward, http1, worker::Ctx};
use bytes::BytesMut;
use std::convert::identity;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What HTTP is spoken over.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A client's connection.
pub(crate) struct Conn {
    ctx: Rc<Ctx>,
    source: Source,
    wants: Wants,
    ends: Ends,
    /// What is shown of it.
    shown: Arc<Connection>,
    /// TLS was terminated here.
    tls: bool,
}

/// Serves a connection to its end.
pub async fn serve(accepted: Box<Accepted>, ctx: Rc<Ctx>) {
    // Through a call: the box goes now, not with the connection.
    let Accepted { stream, wants, source, guard, client } = *identity(accepted);
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let Some(local) = wants.original().map(EndpointAddr::addr).or_else(|| stream.local_addr().ok()) else { return };
    let Some(shown) = guard.connection().cloned() else { return };
    let conn = Conn { ctx, source, wants, ends: Ends { client: client.addr(), local }, shown, tls: false };
    if let Wants::Gateway { port, .. } = conn.wants {
        // Boxed: a handshake is larger than everything else.
        Box::pin(gateway::serve(conn, port, stream)).await;
        return drop(guard);
    }
    let conn = Rc::new(conn);
    let destinations = &conn.ctx.destinations;
    let target = match destinations.connection(&conn.source, &conn.wants) {
        Ok(target) => target,
        Err(failure @ Failure::UnknownHost) if !destinations.tells(conn.wants.port()) => {
            return opaque::refuse(&conn, &failure, None, &stream);
        }
        // Nowhere to go, but the port speaks HTTP or TLS: the host may be known, or the client be told.
        Err(_) => return Box::pin(conn.serve_declared_http(stream, None)).await,
    };
    match target.protocol {
        Protocol::Tcp => Box::pin(opaque::serve_mesh(&conn, stream, BytesMut::new(), false, None)).await,
        Protocol::Tls => Box::pin(opaque::serve_mesh(&conn, stream, BytesMut::new(), true, None)).await,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
            Box::pin(conn.serve_declared_http(stream, Some(&target))).await;
        }
        Protocol::Detect => Box::pin(opaque::serve_undeclared(&conn, stream)).await,
    }
    drop(guard);
}

impl Conn {
    fn way<'a>(&'a self, target: &'a Target, to: EndpointAddr) -> Way<'a> {
        let (source, ends) = (&self.source, Some(self.ends));
        Way { source: source.cookie, dialer: &source.dialer, upstream: &target.upstream, to, ends, others: false }
    }

    /// The port speaks HTTP: the client's first bytes say which version.
    async fn serve_declared_http(self: Rc<Self>, mut stream: TcpStream, target: Option<&Target>) {
        let mut first = BytesMut::new();
        let in_mesh = !matches!(self.wants, Wants::Gateway { .. });
        let read = {
            let mut drain = self.ctx.drain.clone();
            let reading = tokio::time::timeout(self.ctx.settings.idle, detect::read(&mut stream, &mut first));
            tokio::select! {
                read = reading => read,
                // Not a byte so far, and the agent ends.
                () = drain.grace_over() => return,
            }
        };
        match read {
            // The app's own TLS: only its name is seen. Boxed, as HTTP/1.1: idle HTTP/2 holds the largest future of these.
            Ok(Ok(Sniff::Tls)) if in_mesh => Box::pin(opaque::serve_mesh(&self, stream, first, true, None)).await,
            Ok(Ok(Sniff::Opaque)) if first.is_empty() => {}
            // Nowhere to go, and nobody whom HTTP could tell so.
            Ok(Ok(Sniff::Opaque)) if in_mesh && target.is_none() => {
                opaque::refuse(&self, &Failure::UnknownHost, None, &stream);
            }
            Ok(Ok(sniff)) => {
                let http2 = target.is_some_and(|target| matches!(target.protocol, Protocol::Http2 | Protocol::Grpc));
                let sniff = if http2 && detect::invalid_preface(&first) { Sniff::Http2 } else { sniff };
                let shown = Arc::clone(&self.shown);
                self.serve_http(sniff, Replay::new(first.freeze(), stream, shown)).await;
            }
            Ok(Err(_)) | Err(_) => {
                self.ctx.recorder.metrics().trouble(Trouble::Detect);
                forward::reset(&stream);
            }
        }
    }

    async fn serve_http<T: Io>(self: Rc<Self>, sniff: Sniff, io: T) {
        let ctx = Rc::clone(&self.ctx);
        let result = if sniff == Sniff::Http2 {
            let _active = ctx.recorder.metrics().connection(ConnectionKind::Http2);
            self.shown.set_speaks(Speaks::Http2);
            self.serve_http2(io).await
        } else {
            let _active = ctx.recorder.metrics().connection(ConnectionKind::Http1);
            self.shown.set_speaks(Speaks::Http1);
            // Anything else gets 400 from HTTP/1.1, as on any HTTP port.
            let handler = |request| {
                let (conn, open) = (Rc::clone(&self), self.shown.begin());
                async move {
                    let response = exchange::exchange(conn, request, None).await;
                    drop(open);
                    response
                }
            };
            Box::pin(http1::serve(io, &ctx.settings, ctx.drain.clone(), handler)).await
        };
        if let Err(error) = result {
            tracing::debug!(%error, "client connection ended");
            ctx.recorder.metrics().trouble(Trouble::Client);
        }
    }
}
