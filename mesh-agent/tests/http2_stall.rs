//! The bound in total on what readers that do not read make the agent hold.

mod support;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use support::{Agent, Whole, endpoint, grpc, message, soon};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// Sends for as long as somebody takes it; counts what was taken and which streams were reset.
async fn flooding(taken: &Arc<AtomicUsize>, resets: &Arc<AtomicUsize>) -> SocketAddr {
    let (taken, resets) = (Arc::clone(taken), Arc::clone(resets));
    endpoint(move |_, mut connection| {
        let (taken, resets) = (Arc::clone(&taken), Arc::clone(&resets));
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let (taken, resets) = (Arc::clone(&taken), Arc::clone(&resets));
                tokio::spawn(async move {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    loop {
                        send.reserve_capacity(16 << 10);
                        let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                        let Some(Ok(count)) = capacity else { break };
                        if send.send_data(Bytes::from(vec![0; count]), false).is_err() {
                            break;
                        }
                        taken.fetch_add(count, SeqCst);
                    }
                    resets.fetch_add(1, SeqCst);
                });
            }
        }
    })
    .await
}

/// A socket that stops reading when told to: its peer's writes fill the buffers between them.
struct Deaf {
    io: TcpStream,
    deaf: Arc<AtomicBool>,
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.deaf.load(SeqCst) { Poll::Pending } else { Pin::new(&mut self.io).poll_read(cx, buf) }
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn is_refused(answer: &Whole) -> bool {
    answer.head.headers().contains_key("x-envoy-overloaded")
}

/// A client that invites gigabytes and reads nothing: all windows are open and the socket is full, so its stream fills
/// its window at the agent *and* what HTTP/2 may buffer for sending. Here the window alone never reaches the bound.
#[tokio::test]
async fn what_waits_for_a_full_socket_counts() {
    let (taken, resets) = (Arc::default(), Arc::default());
    let endpoint = flooding(&taken, &resets).await;
    let settings =
        Settings { stream_window: 64 << 10, send_buffer: 512 << 10, stalled_bytes: 128 << 10, ..Settings::default() };
    let agent = Agent::with(Protocol::Grpc, &[endpoint], settings);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let deaf = Arc::new(AtomicBool::new(false));
    let io = Deaf { io: socket.connect(agent.addr).await.unwrap(), deaf: Arc::clone(&deaf) };
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    let (mut send, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = send.send_request(grpc("/a/B"), true).unwrap();
    let _held = soon("head", response).await.unwrap();
    deaf.store(true, SeqCst);
    let mut other = agent.http2().await;
    let refused = async {
        loop {
            // The endpoint floods the other client as well: its head says enough.
            let (response, _) = other.start(grpc("/a/B"), true).await;
            if response.await.unwrap().headers().contains_key("x-envoy-overloaded") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("refusal", refused).await;
    assert!(agent.metric(&["istio_requests_total", "response_flags=\"UO\""]) >= 1.0);
}

#[tokio::test]
async fn beyond_one_and_a_half_times_the_bound_stalled_streams_are_reset() {
    const STREAMS: usize = 8;
    let (taken, resets) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let endpoint = flooding(&taken, &resets).await;
    let defaults = Settings::default();
    let each = defaults.stream_window as usize + defaults.send_buffer;
    // Requests that came before the bound was reached may all stall: room for three, and four before the reset.
    let settings = Settings { stalled_bytes: 3 * each, ..defaults };
    let agent = Agent::with(Protocol::Grpc, &[endpoint], settings);
    let mut client = agent.http2().await;
    let mut responses = Vec::new();
    for _ in 0..STREAMS {
        responses.push(client.start(grpc("/a/B"), true).await.0);
    }
    let mut bodies = Vec::new();
    for response in responses {
        bodies.push(soon("head", response).await.unwrap().into_body());
    }
    // Nobody reads the bodies. Of eight, at most four hold 1.5 × 3 × `each`; the client's own windows let each stream
    // pass as little as 8 KiB, so a stream counts for the window at least.
    let window = Settings::default().stream_window as usize;
    let most = (3 * each + 3 * each / 2) / window;
    let enough = async {
        while resets.load(SeqCst) < STREAMS - most {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the endpoint sees resets", enough).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(resets.load(SeqCst) < STREAMS, "those within the bound go on");
    let refused = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert!(is_refused(&refused), "{refused:?}");
    let mut ended = 0;
    for body in &mut bodies {
        // Up to the error, if there is one: what had come before it, at most the client's window.
        let read = async {
            loop {
                match body.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Some(error),
                    None => return None,
                }
            }
        };
        if let Ok(Some(error)) = tokio::time::timeout(Duration::from_millis(200), read).await {
            assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
            ended += 1;
        }
    }
    assert_eq!(ended, resets.load(SeqCst), "each of them is told why");
}

/// Streams whose clients read nothing, each of them full of small messages, and a lively one beside them, all on one
/// connection to the endpoint: `h2` ends a connection in which too many small frames wait.
#[tokio::test]
async fn small_messages_of_stalled_streams_do_not_end_their_connection() {
    /// 8,192 of them fill a stream's window.
    const MESSAGE: usize = 32;
    /// All but a quarter of the connection's window: the lively stream needs some of it.
    const STREAMS: usize = 24;
    let connections = Arc::new(AtomicUsize::new(0));
    let (sent, count) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&connections));
    let all = Arc::clone(&sent);
    let endpoint = endpoint(move |_, mut connection| {
        count.fetch_add(1, SeqCst);
        let sent = Arc::clone(&all);
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let sent = Arc::clone(&sent);
                let lively = request.uri().path() == "/a/Lively";
                tokio::spawn(async move {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    loop {
                        send.reserve_capacity(MESSAGE);
                        let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                        let Some(Ok(count)) = capacity else { break };
                        let message = Bytes::from_static(&[7; MESSAGE]).split_to(count.min(MESSAGE));
                        if send.send_data(message, false).is_err() {
                            break;
                        }
                        if lively {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        } else {
                            sent.fetch_add(MESSAGE, SeqCst);
                        }
                    }
                });
            }
        }
    })
    .await;
    let defaults = Settings::default();
    let (window, overhead) = (defaults.stream_window as usize, defaults.frame_overhead);
    assert!(STREAMS * (window / MESSAGE) * (256 - MESSAGE) > 2 * overhead, "far more than HTTP/2 lets wait");
    let agent = Agent::start(Protocol::Grpc, &[endpoint]);
    let mut lively = agent.http2().await;
    let mut living = soon("head", lively.start(grpc("/a/Lively"), true).await.0).await.unwrap().into_body();
    let mut stalled = Vec::new();
    for stream in 1..=STREAMS {
        let mut client = agent.http2().await;
        let response = soon("head", client.start(grpc("/a/B"), true).await.0).await.unwrap();
        stalled.push((client, response));
        // One after another: what a single turn reads is no stall. At least half of a window is let through.
        let full = async {
            while sent.load(SeqCst) < stream * window / 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon("the endpoint fills the window", full).await;
    }
    let mut heard = 0;
    while heard < 4096 {
        let data = soon("the lively stream", living.data()).await.expect("goes on").expect("its connection lives");
        living.flow_control().release_capacity(data.len()).unwrap();
        heard += data.len();
    }
    assert_eq!(connections.load(SeqCst), 1);
    // What was joined on the way is still all there.
    let (_client, response) = stalled.swap_remove(0);
    let mut body = response.into_body();
    let mut read = 0;
    while read < window {
        let data = soon("a stalled stream", body.data()).await.expect("goes on").expect("its connection lives");
        assert!(data.iter().all(|byte| *byte == 7));
        body.flow_control().release_capacity(data.len()).unwrap();
        read += data.len();
    }
}
