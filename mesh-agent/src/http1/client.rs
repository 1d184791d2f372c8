//! The client side: connections that are used for one exchange after another.

use super::{RecvBody, body_error};
use crate::body::Body;
use crate::connect::{Link, Open, Permit};
use crate::costs::{self, CONNECTION, Held};
use crate::error::{ConnectError, UpstreamError};
use crate::time::{self, Nanos};
use http::{Request, Response, StatusCode};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
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
    /// Requests so far.
    used: u32,
    /// After which it takes no more of them.
    expires: Option<Nanos>,
    /// What is below, where somebody said so.
    link: Option<Arc<Link>>,
}

/// Connections of one pool that wait for a request, the last used one on top.
#[derive(Debug, Default)]
pub struct Idle {
    senders: RefCell<Vec<(Sender, Nanos)>>,
    /// Who wants to hear of each connection that comes back.
    waiting: Option<Arc<Open>>,
    /// Requests that a connection may serve.
    most: Option<u32>,
    longest: Option<Duration>,
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
    costs::spawn(async move {
        let _held = Held::new(CONNECTION);
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    let expires = idle.longest.map(|longest| Nanos::now().plus(time::jittered(longest, fastrand::f64())));
    Ok(Sender { send, idle: Rc::downgrade(idle), request: None, used: 0, expires, link: None })
}

impl Sender {
    /// With what is below, for whoever asks [`Self::link`].
    pub(crate) fn over(mut self, link: Arc<Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// What is below, where somebody said so.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.link.as_ref()
    }

    /// Takes the next request's permit, to keep it until that one's end.
    pub(crate) fn with(mut self, request: Option<Permit>) -> Self {
        self.request = request;
        self
    }

    /// Waits until the connection has settled after its last exchange; `None` where it has ended.
    pub(crate) async fn ready(mut self) -> Option<Self> {
        self.send.ready().await.ok()?;
        Some(self)
    }

    fn is_spent(&self, most: Option<u32>, now: Nanos) -> bool {
        self.send.is_closed() || most.is_some_and(|most| self.used >= most) || self.expires.is_some_and(|at| now > at)
    }

    /// Sends a request and waits for the response's head. The connection goes back to its pool after the body's end.
    ///
    /// # Errors
    /// With the request where not a byte of it was sent.
    pub async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<Body>, (UpstreamError, Option<Request<Body>>)> {
        self.used = self.used.saturating_add(1);
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
    /// `waiting`: who wants to hear of each connection that comes back. `most` requests and `longest` life of each.
    pub(crate) fn new(waiting: Option<Arc<Open>>, most: Option<u32>, longest: Option<Duration>) -> Self {
        Self { senders: RefCell::default(), waiting, most, longest }
    }

    /// A connection that is alive and ready now. One whose last exchange is just settling stays for the next request.
    pub fn take(&self) -> Option<Sender> {
        let mut senders = self.senders.borrow_mut();
        self.drop_spent(&mut senders);
        let ready = senders.iter().rposition(|(sender, _)| sender.send.is_ready())?;
        Some(senders.remove(ready).0)
    }

    /// A connection that is alive, perhaps still settling: `Sender::ready` says when it has.
    pub(crate) fn take_settling(&self) -> Option<Sender> {
        let mut senders = self.senders.borrow_mut();
        self.drop_spent(&mut senders);
        Some(senders.pop()?.0)
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, now: Nanos, longest: Duration) {
        let mut senders = self.senders.borrow_mut();
        senders.retain(|(sender, since)| !sender.is_spent(self.most, now) && now.since(*since) < longest);
    }

    pub fn is_empty(&self) -> bool {
        self.senders.borrow().is_empty()
    }

    /// Takes a connection back, unless it has served its time: it closes then.
    pub fn put(&self, sender: Sender) {
        let now = Nanos::now();
        if !sender.is_spent(self.most, now) {
            self.senders.borrow_mut().push((sender, now));
        }
        if let Some(waiting) = &self.waiting {
            waiting.changed.notify_one();
        }
    }

    fn drop_spent(&self, senders: &mut Vec<(Sender, Nanos)>) {
        let limited = self.longest.is_some();
        let now = if limited { Nanos::now() } else { Nanos::default() };
        senders.retain(|(sender, _)| !sender.is_spent(self.most, now));
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
