//! The client side: connections that are used for one exchange after another.

use super::{RecvBody, body_error};
use crate::body::Body;
use crate::connect::Permit;
use crate::error::{ConnectError, UpstreamError};
use crate::time::Nanos;
use http::{Request, Response, StatusCode};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection ready for a request.
#[derive(Debug)]
pub struct Sender {
    send: SendRequest<Body>,
    /// Where it goes after a complete exchange.
    idle: Weak<Idle>,
    /// The running request's place among those that its policy allows.
    request: Option<Permit>,
}

/// Connections of one pool that wait for a request, the last used one on top.
#[derive(Debug, Default)]
pub struct Idle {
    senders: RefCell<Vec<(Sender, Nanos)>>,
}

/// The right to give a connection back.
#[derive(Debug)]
pub(super) struct Lease {
    sender: Sender,
}

/// Makes a connection of a connected socket and drives it in a task of its own on this thread.
///
/// # Errors
/// `ConnectError::Handshake`; hyper writes nothing here, so none is known.
pub async fn connect<T>(io: T, idle: &Rc<Idle>) -> Result<Sender, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, driver) = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|_| ConnectError::Handshake)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Sender { send, idle: Rc::downgrade(idle), request: None })
}

impl Sender {
    /// Takes the next request's permit, to keep it until that one's end.
    pub(crate) fn with(mut self, request: Option<Permit>) -> Self {
        self.request = request;
        self
    }

    /// Sends a request and waits for the response's head. The connection goes back to its pool after the body's end.
    ///
    /// # Errors
    /// With the request where not a byte of it was sent.
    pub async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<Body>, (UpstreamError, Option<Request<Body>>)> {
        let response = match self.send.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let request = error.take_message();
                let kind = if request.is_some() { UpstreamError::NotSent } else { body_error(error.error()) };
                return Err((kind, request));
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|_| Body::Empty));
        }
        let lease = Lease { sender: self };
        Ok(response.map(|incoming| {
            if http_body::Body::is_end_stream(&incoming) {
                lease.give_back();
                return Body::Empty;
            }
            RecvBody::response(incoming, lease).into()
        }))
    }
}

impl Idle {
    /// A connection that is alive and ready now. One whose last exchange is just settling stays for the next request.
    pub fn take(&self) -> Option<Sender> {
        let mut senders = self.senders.borrow_mut();
        senders.retain(|(sender, _)| !sender.send.is_closed());
        let ready = senders.iter().rposition(|(sender, _)| sender.send.is_ready())?;
        Some(senders.remove(ready).0)
    }

    /// Closes what has been idle for too long; says whether any is left.
    pub fn sweep(&self, now: Nanos, longest: Duration) -> bool {
        let mut senders = self.senders.borrow_mut();
        senders.retain(|(sender, since)| !sender.send.is_closed() && now.since(*since) < longest);
        !senders.is_empty()
    }

    pub fn put(&self, sender: Sender) {
        self.senders.borrow_mut().push((sender, Nanos::now()));
    }
}

impl Lease {
    /// Called at the end of a response.
    pub(super) fn give_back(self) {
        if let Some(idle) = self.sender.idle.upgrade() {
            idle.put(self.sender.with(None));
        }
    }
}
