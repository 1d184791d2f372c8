//! The server side: a client's connection and the streams on it.

use super::gather::{Gathered, TurnEnd};
use super::pump::{Pump, PumpError};
use super::{Ledger, RecvBody, upstream_error};
use crate::body::Body;
use crate::error::UpstreamError;
use crate::settings::Settings;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason};
use http::{Request, Response};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// Length of the client connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// A GOAWAY that refuses nothing: last stream 2^31-1, NO_ERROR (RFC 9113 §6.8).
const NOTICE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// From the client's answer to the PING beside the notice to the end: it answers a PING before it sends the requests that it
/// has queued, and `h2` would take that answer for the end of what was under way, and refuse them.
const GRACE: Duration = Duration::from_secs(1);

/// A client's connection.
#[derive(Debug)]
pub struct Server<T> {
    connection: h2::server::Connection<Gathered<T>, Bytes>,
    turn_end: TurnEnd<T>,
    send_buffer: usize,
    ending: Option<Ending>,
}

/// Between the notice and the end. A client short of CPU reads the notice seconds later: it is asked whether it has.
#[derive(Debug)]
enum Ending {
    /// The PING beside the notice is not answered yet.
    Asked(PingPong),
    Grace(Pin<Box<Sleep>>),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// Waits for the client's preface.
    ///
    /// # Errors
    /// The client's connection ended or it does not speak HTTP/2.
    pub fn handshake(io: T, settings: &Settings) -> impl Future<Output = Result<Self, UpstreamError>> + use<T> {
        let (io, turn_end) = Gathered::new(io, PREFACE);
        let send_buffer = settings.send_buffer;
        let handshake = h2::server::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(settings.max_header_list)
            .max_send_buffer_size(send_buffer)
            .data_frame_budget(settings.frame_overhead)
            .handshake(io);
        async move {
            let connection = handshake.await.map_err(|error| upstream_error(&error))?;
            Ok(Self { connection, turn_end, send_buffer, ending: None })
        }
    }

    /// The next request; `None` when the connection ended. Must be polled for streams to make progress.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Exchange, UpstreamError>>> {
        if let Some(ending) = self.ending.take() {
            self.ending = self.poll_ending(ending, cx);
        }
        let (next, send_buffer) = (self.connection.poll_accept(cx), self.send_buffer);
        self.turn_end.poll(cx);
        next.map(|next| {
            Some(next?.map_err(|error| upstream_error(&error)).map(|(request, send)| {
                let body = |stream| RecvBody::request(stream, send_buffer).into();
                let request = request.map(|stream| if stream.is_end_stream() { Body::Empty } else { body(stream) });
                (request, Responder { send })
            }))
        })
    }

    /// GOAWAY with the next poll; streams that the client began before it saw it are still served, and the last one is
    /// named when they have come (RFC 9113 §6.8's two steps).
    pub fn drain(&mut self) {
        self.turn_end.say(NOTICE);
        // Only a connection that is gone takes no PING.
        let mut ping = self.connection.ping_pong();
        let asked = ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok());
        self.ending = ping.filter(|_| asked).map(Ending::Asked);
    }

    /// As far as it comes now.
    fn poll_ending(&mut self, mut ending: Ending, cx: &mut Context<'_>) -> Option<Ending> {
        if let Ending::Asked(ping) = &mut ending {
            match ping.poll_pong(cx) {
                Poll::Ready(answer) => answer.ok()?,
                Poll::Pending => return Some(ending),
            };
            ending = Ending::Grace(Box::pin(sleep(GRACE)));
        }
        if let Ending::Grace(grace) = &mut ending
            && grace.as_mut().poll(cx).is_ready()
        {
            self.connection.graceful_shutdown();
            return None;
        }
        Some(ending)
    }
}

/// A request and the way to answer it.
pub type Exchange = (Request<Body>, Responder);

/// Answers one request.
#[derive(Debug)]
pub struct Responder {
    send: SendResponse<Bytes>,
}

impl Responder {
    /// Ready when the client resets the stream or its connection ends.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }

    /// Sends a 1xx head (RFC 9110 §15.2); a client that is gone does not mind.
    pub fn informational(&mut self, head: Response<()>) {
        let _ = self.send.send_informational(head);
    }

    /// Resets the stream with an RST_STREAM code.
    pub fn reset(&mut self, code: u32) {
        self.send.send_reset(Reason::from(code));
    }

    /// Sends a response to its end.
    ///
    /// # Errors
    /// The endpoint's failure, passed on to the client as RST_STREAM with the same code, or the client's
    /// (`Err(None)`).
    pub async fn respond(
        mut self,
        response: Response<Body>,
        ledger: &Arc<Ledger>,
    ) -> Result<(), Option<UpstreamError>> {
        let (head, mut body) = response.into_parts();
        let end = body.is_end();
        let Ok(sink) = self.send.send_response(Response::from_parts(head, ()), end) else {
            body.cancelled();
            return Err(None);
        };
        if end {
            return Ok(());
        }
        let mut pump = Pump::new(sink, Arc::clone(ledger));
        match poll_fn(|cx| pump.poll(cx, &mut body)).await {
            Ok(()) => Ok(()),
            Err(PumpError::Source(error)) => {
                pump.reset(crate::error::Failure::Upstream(error.clone()).answer().reset);
                Err(Some(error))
            }
            Err(PumpError::Sink) => {
                body.cancelled();
                Err(None)
            }
            Err(PumpError::Stalled) => {
                body.cancelled();
                Err(Some(UpstreamError::Stalled))
            }
        }
    }
}

#[cfg(test)]
mod tests;
