//! A port that nothing declares: the first bytes decide between HTTP and TCP.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{finish, http, tcp};
use crate::apps::listen::Connection;

const STARTS: [&[u8]; 10] = [
    b"PRI * HTTP/2.0",
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
];

/// Serves until `connections` ends, then gives those still open `drain`.
pub(super) async fn serve(
    mut connections: mpsc::Receiver<Connection>,
    http: http::Server,
    tcp: tcp::Server,
    drain: Duration,
) {
    let mut tasks = JoinSet::new();
    let (sender, receiver) = mpsc::channel(64);
    let http_side = tokio::spawn(http.serve(receiver, drain));
    while let Some(connection) = connections.recv().await {
        let (sender, tcp) = (sender.clone(), tcp.clone());
        tasks.spawn(async move {
            if speaks_http(&connection).await {
                let _ = sender.send(connection).await;
            } else {
                tcp.answer(connection).await;
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    drop(sender);
    finish(tasks, drain).await;
    let _ = http_side.await;
}

async fn speaks_http(connection: &Connection) -> bool {
    let mut first = [0; 16];
    // peek() returns at once while a byte is there, so wait a little for the rest of a split first word.
    for _ in 0..200 {
        let Ok(seen) = connection.stream.peek(&mut first).await else { return false };
        match verdict(first.get(..seen).unwrap_or_default()) {
            Some(verdict) => return verdict,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    false
}

/// `None` while the bytes may still become a request. The end of the stream (no bytes) is no request.
fn verdict(seen: &[u8]) -> Option<bool> {
    if seen.is_empty() {
        return Some(false);
    }
    if STARTS.iter().any(|start| seen.starts_with(start)) {
        return Some(true);
    }
    let undecided = STARTS.iter().any(|start| start.starts_with(seen));
    (!undecided).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn first_bytes_decide() {
        assert_eq!(verdict(b"GET / HTTP/1.1\r\n"), Some(true));
        assert_eq!(verdict(b"PRI * HTTP/2.0\r\n"), Some(true));
        assert_eq!(verdict(b"PO"), None);
        assert_eq!(verdict(b"POx"), Some(false));
        assert_eq!(verdict(b"hello\n"), Some(false));
        assert_eq!(verdict(b""), Some(false));
    }
}
