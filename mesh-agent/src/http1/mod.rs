//! HTTP/1.1 (RFC 9112), over hyper.
//!
//! Place in the path: `serve` stands behind `detect`, `Sender` behind `connect`. Invariant: header case and order of
//! an HTTP/1.1 message are kept from one side to the other; a connection is used again only after a complete exchange.

mod client;
mod server;
mod upgrade;

pub use client::{Idle, Sender, connect};
pub use server::serve;
pub use upgrade::{Upgrade, tunnel};

use crate::body::{Body, Chunk};
use crate::error::UpstreamError;
use client::Lease;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http_body::Body as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A body arriving over HTTP/1.1.
#[derive(Debug)]
pub struct RecvBody {
    incoming: Incoming,
    /// Of a response: gives the connection back at the end of the body.
    lease: Option<Lease>,
    /// Bytes handed to the endpoint's side so far, and how many of them it may be keeping: `Settings::send_buffer`.
    released: usize,
    send_buffer: usize,
}

impl RecvBody {
    fn request(incoming: Incoming, send_buffer: usize) -> Self {
        Self { incoming, lease: None, released: 0, send_buffer }
    }

    /// A response's receiver is HTTP/1.1 as well and keeps one buffer: nothing to account for.
    fn response(incoming: Incoming, lease: Lease) -> Self {
        Self { incoming, lease: Some(lease), released: 0, send_buffer: 0 }
    }

    pub(crate) fn release(&mut self, count: usize) {
        self.released = self.released.saturating_add(count);
    }

    /// At most.
    pub(crate) fn held(&self) -> usize {
        self.released.min(self.send_buffer)
    }

    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => {
                    self.give_back();
                    None
                }
                Some(Err(error)) => Some(Err(body_error(&error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => Some(Ok(Chunk::Data(data))),
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => Some(Ok(Chunk::Trailers(Box::new(trailers)))),
                        Err(_) => continue,
                    },
                },
            });
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Drop for RecvBody {
    /// Whoever knows the length asks no further after the last byte: the exchange is complete all the same. Dropped
    /// before, it takes its connection along.
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}

impl From<RecvBody> for Body {
    fn from(body: RecvBody) -> Self {
        Self::Http1(Box::new(body))
    }
}

/// Removes the fields that mean one connection only (RFC 9110 §7.6.1); `keep_upgrade` leaves what asks for another
/// protocol.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    if let Some(named) = headers.get(CONNECTION).cloned() {
        for name in named.to_str().unwrap_or_default().split(',') {
            let name = name.trim();
            let kept = keep_upgrade && name.eq_ignore_ascii_case("upgrade");
            if !kept && !name.eq_ignore_ascii_case("te") {
                headers.remove(name);
            }
        }
    }
    if !keep_upgrade {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if headers.get(TE).is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(TE);
    }
}

fn body_error(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() {
        UpstreamError::Protocol
    } else if error.is_user() {
        // The request's body failed: hyper counts it as its user's error.
        UpstreamError::Aborted
    } else {
        UpstreamError::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_go() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private, upgrade"),
            ("x-private", "1"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut upgrading = headers.clone();
        strip_hop_by_hop(&mut headers, false);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["te", "x-kept"]);
        strip_hop_by_hop(&mut upgrading, true);
        assert!(upgrading.contains_key(UPGRADE) && upgrading.contains_key(CONNECTION));
        assert!(!upgrading.contains_key("x-private"));
    }
}
