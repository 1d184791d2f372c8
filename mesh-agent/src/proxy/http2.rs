//! A client's HTTP/2 connection: its requests, and when it ends.

use super::life::{drained, idle};
use super::{Conn, Io, exchange};
use crate::body::Body;
use crate::connections::UnderWay;
use crate::costs;
use crate::error::UpstreamError;
use crate::http2::{Responder, Server};
use http::{Request, Response};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

impl Conn {
    /// Serves it to its end.
    pub(super) fn serve_http2<T: Io>(self: Rc<Self>, io: T) -> impl Future<Output = Result<(), UpstreamError>> {
        // Begun here: an async function keeps its arguments' room to its end. Boxed: needed for a moment, and as large as
        // the connection itself.
        let handshake = Box::pin(Server::handshake(io, &self.ctx.settings));
        async move {
            let mut server = handshake.await?;
            let mut drained = pin!(drained(self.ctx.drain.clone()));
            let mut idle = pin!(idle(self.ctx.settings.idle, &self.shown));
            let mut draining = false;
            loop {
                let next = poll_fn(|cx| {
                    if !draining && (drained.as_mut().poll(cx).is_ready() || idle.as_mut().poll(cx).is_ready()) {
                        draining = true;
                        server.drain();
                    }
                    server.poll_accept(cx)
                });
                let Some((request, responder)) = next.await.transpose()? else { return Ok(()) };
                let open = self.shown.begin();
                costs::spawn(serve_stream(Rc::clone(&self), request, responder, open));
            }
        }
    }
}

/// One request of an HTTP/2 connection, to its end or until the client leaves.
async fn serve_stream(conn: Rc<Conn>, request: Request<Body>, responder: Responder, _open: UnderWay) {
    let responder = Rc::new(RefCell::new(responder));
    let inform = {
        let responder = Rc::clone(&responder);
        move |head: Response<()>| responder.borrow_mut().informational(head)
    };
    let ledger = Arc::clone(&conn.ctx.ledger);
    let answer = {
        // Boxed: what a task is made of is copied three times on its way to the heap, and stays until the last byte of
        // the response, long after the exchange.
        let mut exchange = Box::pin(exchange::exchange(conn, request, Some(Box::new(inform))));
        poll_fn(|cx| {
            if let Poll::Ready(response) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            // Dropping the exchange resets the endpoint's stream with CANCEL.
            responder.borrow_mut().poll_gone(cx).map(|()| None)
        })
        .await
    };
    if let (Some(response), Ok(responder)) = (answer, Rc::try_unwrap(responder)) {
        // How it ended is in the record already.
        let _ = responder.into_inner().respond(response, &ledger).await;
    }
}
