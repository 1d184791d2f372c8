//! Opaque bytes both ways until both sides are done.
//!
//! Place in the path: after `balance` and `connect`, for connections that are not HTTP. Invariants: each direction ends
//! on its own (half-close passes through), a reset passes through as a reset, and an idle connection holds no buffer.

mod buffers;
mod pump;

use bytes::Bytes;
use pump::{Activity, Ended, pump};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How a forwarded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Client to server, early bytes included.
    pub bytes_up: u64,
    /// Server to client, early bytes included.
    pub bytes_down: u64,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions were closed in order.
    Closed,
    /// Nothing moved for the idle time-out; both sides are closed.
    Idle,
    /// This side broke the connection; the other one was reset too.
    Reset(Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Forwards until both directions have ended, one side resets, or nothing moves for `idle` (zero: no limit).
///
/// `early_from_client` and `early_from_server` were read before (by `detect`) and go first. Dropping the future closes
/// both connections.
pub async fn copy_both(
    down: TcpStream,
    up: TcpStream,
    early_from_client: Bytes,
    early_from_server: Bytes,
    idle: Duration,
) -> Outcome {
    let upward = Activity::default();
    let downward = Activity::default();
    let end = {
        let mut to_server = pin!(pump(&down, &up, early_from_client, &upward));
        let mut to_client = pin!(pump(&up, &down, early_from_server, &downward));
        let mut watch = pin!(watch(idle, [&upward, &downward]));
        let (mut sent, mut received) = (None, None);
        poll_fn(|cx| {
            if sent.is_none() {
                sent = ready(to_server.as_mut().poll(cx));
            }
            if received.is_none() {
                received = ready(to_client.as_mut().poll(cx));
            }
            if let Some(end) = verdict(sent, received) {
                return Poll::Ready(end);
            }
            watch.as_mut().poll(cx).map(|()| End::Idle)
        })
        .await
    };
    if let End::Reset(side) = end {
        let other = if side == Side::Client { &up } else { &down };
        // Closing with a zero linger sends RST (tcp(7)), so that the other side learns of the reset. If the option
        // cannot be set, the plain close that follows is the best there is.
        let _ = other.set_zero_linger();
    }
    Outcome { bytes_up: upward.bytes(), bytes_down: downward.bytes(), end }
}

/// What the ends of the two directions mean together; `None` while the connection goes on.
fn verdict(sent: Option<Ended>, received: Option<Ended>) -> Option<End> {
    match (sent, received) {
        // Who cannot be read any more has reset: nothing more will come from there, nothing can be delivered.
        (Some(Ended::SourceBroke), _) => Some(End::Reset(Side::Client)),
        (_, Some(Ended::SourceBroke)) => Some(End::Reset(Side::Server)),
        // Who does not take bytes may have left some to be read (an answer sent before closing): the other direction
        // goes on to its own end first.
        (Some(Ended::SinkBroke), Some(_)) => Some(End::Reset(Side::Server)),
        (Some(_), Some(Ended::SinkBroke)) => Some(End::Reset(Side::Client)),
        (Some(Ended::Closed), Some(Ended::Closed)) => Some(End::Closed),
        (None, _) | (_, None) => None,
    }
}

/// Ends when neither direction has moved a byte for `idle`. One timer per connection, set again only when it fires.
async fn watch(idle: Duration, directions: [&Activity; 2]) {
    if idle.is_zero() {
        return std::future::pending().await;
    }
    let mut seen = 0;
    let mut deadline = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(deadline).await;
        let moved = directions.iter().map(|d| d.bytes()).fold(0, u64::wrapping_add);
        if moved == seen {
            return;
        }
        seen = moved;
        deadline = Instant::now() + idle;
    }
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests;
