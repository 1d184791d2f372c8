//! The client side: one connection to an endpoint and the calls on it.

use super::gather::Gathered;
use super::preface::{Listened, Preface};
use super::pump::{Pump, PumpError};
use super::{Ledger, RecvBody, upstream_error};
use crate::body::Body;
use crate::connect::{Link, Permit};
use crate::costs::{self, CONNECTION, Held};
use crate::error::{ConnectError, UpstreamError};
use crate::settings::Settings;
use crate::time::{self, Nanos};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::{Request, Response};
use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to an endpoint, multiplexing calls. Closes gracefully when the last handle is dropped.
#[derive(Debug)]
pub struct Connection {
    send: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
    ledger: Arc<Ledger>,
    send_buffer: usize,
    /// What is below, where somebody said so.
    link: OnceCell<Arc<Link>>,
}

#[derive(Debug)]
struct State {
    active: Cell<usize>,
    /// Calls so far.
    calls: Cell<u64>,
    closed: Cell<bool>,
    /// After which no call starts; `None`: it may grow old.
    expires: Option<Nanos>,
    idle_since: Cell<Nanos>,
}

/// Makes a connection of a connected socket, drives it in a task of its own on this thread, and returns when the
/// endpoint has spoken.
///
/// # Errors
/// `ConnectError::Handshake` where the socket ends before that, `Timeout` after `Settings::preface_timeout`.
pub async fn connect<T>(io: T, settings: &Settings, ledger: &Arc<Ledger>) -> Result<Rc<Connection>, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let preface = Rc::new(Preface::default());
    let (io, turn_end) = Gathered::new(io, 0);
    let (send, mut driver) = h2::client::Builder::new()
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(settings.max_header_list)
        .max_send_buffer_size(settings.send_buffer)
        .data_frame_budget(settings.frame_overhead)
        .enable_push(false)
        .handshake::<_, Bytes>(Listened::new(io, &preface))
        .await
        .map_err(|_| ConnectError::Handshake)?;
    let now = Nanos::now();
    let expires = settings.max_connection_age.map(|age| now.plus(time::jittered(age, fastrand::f64())));
    let state = Rc::new(State {
        active: Cell::new(0),
        calls: Cell::new(0),
        closed: Cell::new(false),
        expires,
        idle_since: Cell::new(now),
    });
    let pings = settings.ping_interval.and_then(|every| Some((driver.ping_pong()?, every)));
    let (watched, timeout) = (Rc::clone(&state), settings.ping_timeout);
    let listened = Rc::clone(&preface);
    costs::spawn(async move {
        let _held = Held::new(CONNECTION);
        let driver = poll_fn(move |cx| {
            let ended = Pin::new(&mut driver).poll(cx);
            turn_end.poll(cx);
            ended
        });
        let result = match pings {
            None => driver.await,
            Some((pings, every)) => tokio::select! {
                result = driver => result,
                () = keep_alive(pings, every, timeout, &watched) => Ok(()),
            },
        };
        watched.closed.set(true);
        listened.end();
        if let Err(error) = result {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    match tokio::time::timeout(settings.preface_timeout, preface.heard()).await {
        Ok(true) => Ok(Rc::new(Connection {
            send: RefCell::new(send),
            state,
            link: OnceCell::new(),
            ledger: Arc::clone(ledger),
            send_buffer: settings.send_buffer,
        })),
        Ok(false) => Err(ConnectError::Handshake),
        Err(_) => Err(ConnectError::Timeout(settings.preface_timeout)),
    }
}

impl Connection {
    /// What is below, where somebody said so.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.link.get()
    }

    /// Once: a connection has one socket.
    pub fn set_link(&self, link: Arc<Link>) {
        let _ = self.link.set(link);
    }

    /// Whether one more call may start now: alive, not going away, below the peer's MAX_CONCURRENT_STREAMS.
    pub fn has_room(&self) -> bool {
        if self.state.closed.get() {
            return false;
        }
        let mut send = self.send.borrow_mut();
        match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.state.active.get() < send.current_max_send_streams(),
            Poll::Ready(Err(_)) => {
                // GOAWAY or the connection's end: running calls go on, new ones do not start here.
                self.state.closed.set(true);
                false
            }
            Poll::Pending => false,
        }
    }

    /// Takes no new calls, now and ever.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    pub fn active(&self) -> usize {
        self.state.active.get()
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state.calls.get()
    }

    /// Takes no new calls because of its age. The clock is read only where it has one.
    pub fn is_too_old(&self, now: impl FnOnce() -> Nanos) -> bool {
        self.state.expires.is_some_and(|expires| now() > expires)
    }

    /// When the last call ended.
    pub fn idle_since(&self) -> Nanos {
        self.state.idle_since.get()
    }

    /// Starts a call, which keeps `permit` to its end.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back untouched.
    pub fn send(
        &self,
        request: Request<()>,
        mut body: Body,
        permit: Option<Permit>,
    ) -> Result<Call, (UpstreamError, Body)> {
        let sent = self.send.borrow_mut().send_request(request, body.is_end());
        let (response, sink) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                let kind = upstream_error(&error);
                let error = match kind {
                    // A malformed head: no other connection would take it either.
                    UpstreamError::Protocol => UpstreamError::Protocol,
                    _ => {
                        self.state.closed.set(true);
                        UpstreamError::NotSent
                    }
                };
                return Err((error, body));
            }
        };
        self.state.active.set(self.state.active.get() + 1);
        self.state.calls.set(self.state.calls.get() + 1);
        let slot = Some(Slot { state: Rc::clone(&self.state), _permit: permit });
        let (upload, rest) = if body.is_end() {
            (None, Some(std::mem::take(&mut body)))
        } else {
            (Some(Upload { pump: Pump::unopened(sink, Arc::clone(&self.ledger)), source: body }), None)
        };
        Ok(Call { response, upload, rest, slot, send_buffer: self.send_buffer })
    }
}

/// A call whose response has not begun. Dropping it resets the stream with CANCEL.
#[derive(Debug)]
pub struct Call {
    response: ResponseFuture,
    upload: Option<Upload>,
    /// The body, once it has been sent completely.
    rest: Option<Body>,
    slot: Option<Slot>,
    send_buffer: usize,
}

impl Call {
    /// Sends the request's body while waiting for the response; `informational` gets 1xx heads on the way. The
    /// response's body goes on sending what is left of the request.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        informational: &mut dyn FnMut(Response<()>),
    ) -> Poll<Result<Response<Body>, UpstreamError>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(result) = upload.poll(cx)
        {
            self.rest = self.upload.take().map(|upload| upload.source);
            match result {
                // The response says why, or it is complete already (RFC 9113 §8.1).
                Ok(()) | Err(PumpError::Sink) => {}
                Err(PumpError::Source(_)) => return Poll::Ready(Err(UpstreamError::Aborted)),
                Err(PumpError::Stalled) => return Poll::Ready(Err(UpstreamError::Stalled)),
            }
        }
        while let Poll::Ready(Some(Ok(head))) = self.response.poll_informational(cx) {
            informational(head);
        }
        let head = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|error| upstream_error(&error))?;
        self.rest = None;
        let (upload, slot, send_buffer) = (self.upload.take(), self.slot.take(), self.send_buffer);
        Poll::Ready(Ok(head.map(|stream| {
            if stream.is_end_stream() && upload.is_none() {
                return Body::Empty;
            }
            RecvBody::response(stream, send_buffer, upload, slot).into()
        })))
    }

    /// Gives the request's body back for another attempt.
    pub fn into_request_body(self) -> Body {
        self.upload.map(|upload| upload.source).or(self.rest).unwrap_or_default()
    }
}

/// The request's side of a call.
#[derive(Debug)]
pub(super) struct Upload {
    pump: Pump,
    source: Body,
}

impl Upload {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let result = ready!(self.pump.poll(cx, &mut self.source));
        if let Err(PumpError::Source(_)) = result {
            // The client cancelled or left: so do we.
            self.pump.reset(crate::error::CANCEL);
        }
        Poll::Ready(result)
    }
}

/// One of the streams a connection may have at a time.
#[derive(Debug)]
pub(super) struct Slot {
    state: Rc<State>,
    _permit: Option<Permit>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let left = self.state.active.get().saturating_sub(1);
        self.state.active.set(left);
        if left == 0 {
            self.state.idle_since.set(Nanos::now());
        }
    }
}

/// PINGs while there are calls; returns when one stays unanswered.
async fn keep_alive(mut pings: PingPong, every: std::time::Duration, timeout: std::time::Duration, state: &State) {
    loop {
        tokio::time::sleep(every).await;
        if state.active.get() == 0 {
            continue;
        }
        match tokio::time::timeout(timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, ReadBuf};
    use tokio::task::{LocalSet, spawn_local};

    /// Counts writes; the rest is the duplex's.
    struct Counted {
        io: DuplexStream,
        writes: Rc<Cell<usize>>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            self.writes.set(self.writes.get() + 1);
            Pin::new(&mut self.io).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    /// Reads each request to its end and answers with a head only.
    async fn endpoint(io: DuplexStream) {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = call.unwrap();
            spawn_local(async move {
                let mut body = request.into_body();
                while let Some(data) = body.data().await {
                    assert_eq!(data.unwrap(), "request");
                }
                respond.send_response(Response::new(()), true).unwrap();
            });
        }
    }

    #[tokio::test]
    async fn head_and_first_data_leave_in_one_write() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let writes = Rc::new(Cell::new(0));
        LocalSet::new()
            .run_until(async {
                spawn_local(endpoint(far));
                let io = Counted { io: near, writes: Rc::clone(&writes) };
                let ledger = Arc::new(Ledger::new(1 << 20));
                let connection = connect(io, &Settings::default(), &ledger).await.unwrap();
                // The first call meets the SETTINGS of both sides.
                for wanted in [None, Some(1), Some(1)] {
                    writes.set(0);
                    let request = Request::post("http://endpoint/").body(()).unwrap();
                    let mut call = connection.send(request, Body::Full("request".into()), None).unwrap();
                    let response = poll_fn(|cx| call.poll_response(cx, &mut |_| {})).await.unwrap();
                    assert_eq!(response.status(), 200);
                    assert!(wanted.is_none_or(|wanted| wanted == writes.get()), "{} writes", writes.get());
                }
            })
            .await;
    }
}
