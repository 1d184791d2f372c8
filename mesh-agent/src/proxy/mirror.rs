//! Copies of requests whose answers nobody waits for (VirtualService `mirrors`, Gateway API `RequestMirror`).

use super::Conn;
use super::attempt::attempt;
use crate::balance::Ask;
use crate::body::{Body, Chunk, Replay};
use crate::costs;
use crate::error::Failure;
use crate::snapshot::route::Destination;
use crate::telemetry::Trouble;
use crate::time::Nanos;
use http::request;
use std::future::poll_fn;
use std::rc::Rc;

/// Sends a copy in a task of its own: whatever becomes of it never reaches the client, and a copy that cannot keep up
/// with the request's body is given up.
pub(super) fn send(conn: &Rc<Conn>, to: &Destination, port: u16, parts: &request::Parts, replay: Option<&Replay>) {
    let ctx = &conn.ctx;
    let Ok(target) = ctx.destinations.backend(&conn.source, &conn.wants, to, port) else {
        ctx.recorder.metrics().trouble(Trouble::Mirror);
        return;
    };
    let body = match replay {
        None => Body::Empty,
        Some(replay) => match replay.reader() {
            Some(reader) => Body::Replay(Box::new(reader)),
            None => return,
        },
    };
    let (conn, parts) = (Rc::clone(conn), parts.clone());
    costs::spawn(async move {
        let ctx = &conn.ctx;
        let ask = Ask { now: Nanos::now(), ..Ask::default() };
        let chosen = target.cluster.pick(&ask, &mut ctx.rng.borrow_mut()).map_err(|_| Failure::NoEndpoint);
        let sent = async {
            let chosen = chosen?;
            let active = chosen.start(Nanos::now());
            let answer = attempt(
                &conn,
                &target,
                &conn.way(&target, chosen.dialled()),
                &parts,
                body,
                &mut None,
                &mut None,
                &mut None,
            )
            .await?;
            let mut body = answer.into_body();
            while let Some(chunk) = poll_fn(|cx| body.poll_chunk(cx)).await {
                if let Chunk::Data(data) = chunk? {
                    body.release(data.len());
                }
            }
            drop(active);
            Ok::<_, Failure>(())
        };
        let limit = ctx.settings.idle;
        if !matches!(tokio::time::timeout(limit, sent).await, Ok(Ok(()))) {
            ctx.recorder.metrics().trouble(Trouble::Mirror);
        }
    });
}
