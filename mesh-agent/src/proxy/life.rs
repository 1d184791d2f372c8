//! When a client's HTTP/2 connection ends: drained, or idle.

use crate::connections::Connection;
use crate::drain::Watch;

pub(super) async fn drained(mut drain: Watch) {
    drain.started().await;
}

/// Returns when for one whole period no request was open or came.
pub(super) async fn idle(period: std::time::Duration, connection: &Connection) {
    loop {
        let before = connection.requests();
        tokio::time::sleep(period).await;
        if connection.streams() == 0 && connection.requests() == before {
            return;
        }
    }
}
