//! Real sockets on loopback: client ─ (down, forward, up) ─ server. One thread, as in a worker.

use super::*;
use crate::addr::ClientAddr;
use crate::connections::{Connections, Listed};
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(3600);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (connected, listener.accept().await.unwrap().0)
}

/// Bytes from the client and to it.
#[derive(Debug, PartialEq, Eq)]
struct Moved {
    received: u64,
    sent: u64,
}

fn shown() -> Listed {
    let client = ClientAddr::new(([127, 0, 0, 1], 1).into());
    Arc::new(Connections::default()).enter(client, None, "test".into(), None)
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug)]
enum By {
    Forward,
    Relay,
}

/// Runs the script of the two ends against both forwarders, which must not differ, and gives back how it ended, and what
/// it moved.
async fn play<F: Future<Output = ()>>(
    idle: Duration,
    first: &'static [u8],
    script: impl Fn(TcpStream, TcpStream) -> F,
) -> (Result<(), ForwardError>, Moved) {
    let (result, moved) = play_by(By::Forward, idle, first, &script).await;
    let (relayed, also) = play_by(By::Relay, idle, first, &script).await;
    let kind = |result: &Result<(), ForwardError>| result.as_ref().map_err(std::mem::discriminant).copied();
    assert_eq!(kind(&relayed), kind(&result), "{relayed:?} {result:?}");
    // What is sent into a broken connection depends on the moment.
    assert!(also.sent == moved.sent && (result.is_err() || also == moved), "{also:?} {moved:?}");
    (result, moved)
}

async fn play_by<F: Future<Output = ()>>(
    by: By,
    idle: Duration,
    first: &'static [u8],
    script: &impl Fn(TcpStream, TcpStream) -> F,
) -> (Result<(), ForwardError>, Moved) {
    let (client, mut down) = pair().await;
    let (mut up, server) = pair().await;
    let forwarded = async move {
        let (shown, first) = (shown(), Bytes::from_static(first));
        let result = match by {
            By::Forward => forward(&mut down, &mut up, first, idle, &shown.connection).await,
            By::Relay => {
                let result = relay(&mut down, &mut up, first, idle, &shown.connection).await;
                match &result {
                    Err(ForwardError::Client(_)) => reset(&up),
                    Err(ForwardError::Endpoint(_)) => reset(&down),
                    _ => {}
                }
                result
            }
        };
        (result, Moved { received: shown.connection.received(), sent: shown.connection.sent() })
    };
    let both = async { tokio::join!(forwarded, script(client, server)).0 };
    let ended = tokio::time::timeout(Duration::from_secs(20), both).await;
    ended.unwrap_or_else(|_| panic!("{by:?}: forwarder and script end"))
}

#[tokio::test]
async fn half_close_passes_in_both_directions() {
    let (result, moved) = play(LONG, b"", async |mut client: TcpStream, mut server: TcpStream| {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        // The other direction lives on.
        server.write_all(b"an answer").await.unwrap();
        server.shutdown().await.unwrap();
        heard.clear();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"an answer");
    })
    .await;
    result.unwrap();
    assert_eq!(moved, Moved { received: 8, sent: 9 });
}

#[tokio::test]
async fn the_server_may_half_close_first() {
    let (result, moved) = play(LONG, b"", async |mut client: TcpStream, mut server: TcpStream| {
        server.write_all(b"220 ready").await.unwrap();
        server.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        client.write_all(&heard).await.unwrap();
        drop(client);
        heard.clear();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"220 ready");
    })
    .await;
    result.unwrap();
    assert_eq!(moved, Moved { received: 9, sent: 9 });
}

#[tokio::test]
async fn what_was_read_before_goes_first() {
    let (result, moved) = play(LONG, b"first ", async |mut client: TcpStream, mut server: TcpStream| {
        client.write_all(b"second").await.unwrap();
        drop(client);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"first second");
    })
    .await;
    result.unwrap();
    assert_eq!(moved.received, 12);
}

#[tokio::test]
async fn a_reset_passes_as_a_reset() {
    for by_client in [true, false] {
        let (result, _) = play(LONG, b"", async |mut client: TcpStream, mut server: TcpStream| {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            let (breaking, mut other) = if by_client { (client, server) } else { (server, client) };
            reset(&breaking);
            drop(breaking);
            let error = other.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        })
        .await;
        let blamed = matches!(
            (&result, by_client),
            (Err(ForwardError::Client(_)), true) | (Err(ForwardError::Endpoint(_)), false)
        );
        assert!(blamed, "{by_client}: {result:?}");
    }
}

#[tokio::test]
async fn last_words_arrive_although_the_server_stopped_listening() {
    const WORDS: &[u8] = b"413 too large";
    let (result, moved) = play(LONG, b"", async |mut client: TcpStream, mut server: TcpStream| {
        client.write_all(b"upload").await.unwrap();
        server.read_exact(&mut [0; 6]).await.unwrap();
        server.write_all(WORDS).await.unwrap();
        drop(server);
        let mut heard = vec![0; WORDS.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, WORDS);
        // The server's socket is gone: what is still uploaded ends in a reset.
        while client.write_all(&[0; 1000]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(matches!(result, Err(ForwardError::Endpoint(_))), "{result:?}");
    assert_eq!(moved.sent, WORDS.len() as u64);
}

#[tokio::test]
async fn idle_closes_but_a_moving_connection_stays() {
    let idle = Duration::from_millis(200);
    let (result, moved) = play(idle, b"", async |mut client: TcpStream, mut server: TcpStream| {
        for _ in 0..10 {
            tokio::time::sleep(idle / 4).await;
            client.write_all(b".").await.unwrap();
        }
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), 10);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    assert!(matches!(result, Err(ForwardError::Idle(_))), "{result:?}");
    assert_eq!(moved, Moved { received: 10, sent: 0 });
}

#[tokio::test]
async fn bulk_arrives_whole_both_ways_past_a_slow_reader() {
    const SIZE: usize = 8 << 20;
    let pattern = |seed: usize| (0..SIZE).map(move |i| (i * 31 + seed) as u8).collect::<Vec<u8>>();
    let (result, moved) = play(LONG, b"", async |mut client: TcpStream, mut server: TcpStream| {
        let one = async |stream: &mut TcpStream, sends: usize, expects: usize| {
            let (mut read, mut write) = stream.split();
            let sent = pattern(sends);
            let mut heard = Vec::with_capacity(SIZE);
            let receive = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                read.read_to_end(&mut heard).await.unwrap();
            };
            let send = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(receive, send);
            assert!(heard == pattern(expects), "bytes differ");
        };
        tokio::join!(one(&mut client, 1, 2), one(&mut server, 2, 1));
    })
    .await;
    result.unwrap();
    assert_eq!(moved, Moved { received: SIZE as u64, sent: SIZE as u64 });
}

#[tokio::test]
async fn an_idle_connection_costs_little_memory() {
    let (_client, mut down) = pair().await;
    let (mut up, _server) = pair().await;
    let shown = shown();
    let forwarding = forward(&mut down, &mut up, Bytes::new(), LONG, &shown.connection);
    let size = size_of_val(&forwarding);
    assert!(size < 1536, "future of {size} bytes");
}
