//! HTTP/2 and gRPC against scripted peers: each test is a conversation that goes wrong without the rule it names.

mod support;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::{Agent, Client, echo, echo_one, endpoint, endpoint_with, grpc, message, soon, trailers, whole};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_refused_stream_is_retried_elsewhere() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let refusing = endpoint(move |_, mut connection| {
        let count = Arc::clone(&count);
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                count.fetch_add(1, SeqCst);
                respond.send_reset(Reason::REFUSED_STREAM);
            }
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[refusing, echo("good").await]);
    let mut client = agent.http2().await;
    for _ in 0..4 {
        let answer = soon("call", client.call(grpc("/a/B"), message(b"body"))).await.unwrap();
        assert_eq!(answer.head.headers()["x-endpoint"], "good");
        assert_eq!(answer.body, message(b"body"), "the body was sent again");
    }
    assert_eq!(refused.load(SeqCst), 2, "round robin tried the refusing endpoint for every other call");
}

#[tokio::test]
async fn a_processed_request_is_not_retried() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let resetting = endpoint(move |_, mut connection| {
        let count = Arc::clone(&count);
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                count.fetch_add(1, SeqCst);
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[resetting]);
    let answer = soon("call", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.headers()["grpc-status"], "14");
    assert!(answer.head.headers()["grpc-message"].to_str().unwrap().contains("remote reset INTERNAL_ERROR"));
    assert_eq!(seen.load(SeqCst), 1);
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UR\""]), 1.0);
}

/// Frame by frame: waits for `streams` HEADERS, answers stream 1 only and says that it processed nothing beyond.
async fn leave_after_the_first(mut stream: TcpStream, streams: usize) -> std::io::Result<()> {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
    // HEADERS, END_HEADERS | END_STREAM, stream 1: `:status: 200` is entry 8 of HPACK's static table.
    const ANSWER: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    // GOAWAY, last-stream-id 1, NO_ERROR.
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(SETTINGS).await?;
    let mut seen = 0;
    while seen < streams {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        match head[3] {
            1 => seen += 1,
            4 if head[4] == 0 => stream.write_all(SETTINGS_ACK).await?,
            _ => {}
        }
    }
    stream.write_all(GOAWAY).await?;
    stream.write_all(ANSWER).await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(|_| ())
}

#[tokio::test]
async fn streams_beyond_a_goaway_go_to_another_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (first, _) = listener.accept().await.unwrap();
        tokio::spawn(leave_after_the_first(first, 5));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            tokio::spawn(async move {
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo_one("second", request, respond));
                }
            });
        }
    });
    let agent = Agent::start(Protocol::Grpc, &[addr]);
    let mut client = agent.http2().await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        let (response, mut send) = client.start(grpc("/a/B"), false).await;
        send.send_data(message(b"x"), true).unwrap();
        calls.push(tokio::spawn(whole(response)));
    }
    let mut moved = 0;
    for call in calls {
        let answer = soon("call", call).await.unwrap().expect("no call is lost");
        if answer.head.headers().contains_key("x-endpoint") {
            assert_eq!(answer.body, message(b"x"));
            moved += 1;
        }
    }
    assert_eq!(moved, 4, "stream 1 was answered by the first connection, the others by the second");
    assert_eq!(agent.metric(&["mesh_retries_total"]), 4.0);
}

#[tokio::test]
async fn a_full_connection_gets_a_sibling() {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let (hold, release) = tokio::sync::watch::channel(false);
    let narrow = endpoint_with(builder, move |_, mut connection| {
        let (count, release) = (Arc::clone(&count), release.clone());
        async move {
            count.fetch_add(1, SeqCst);
            while let Some(Ok((request, respond))) = connection.accept().await {
                let mut release = release.clone();
                tokio::spawn(async move {
                    let _ = release.wait_for(|go| *go).await;
                    echo_one("narrow", request, respond).await;
                });
            }
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[narrow]);
    let mut client = agent.http2().await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        let (response, mut send) = client.start(grpc("/a/B"), false).await;
        send.send_data(message(b"x"), true).unwrap();
        calls.push(tokio::spawn(whole(response)));
        // The endpoint's SETTINGS arrive with its first answer at the latest.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(open.load(SeqCst), 3, "six held calls at two for each connection");
    hold.send_replace(true);
    for call in calls {
        assert_eq!(soon("call", call).await.unwrap().unwrap().trailers.unwrap()["grpc-status"], "0");
    }
}

#[tokio::test]
async fn the_clients_cancel_reaches_the_endpoint() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let waiting = endpoint(move |_, mut connection| {
        let tell = tell.clone();
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    tell.send(None).unwrap();
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    tell.send(Some(reason.unwrap())).unwrap();
                });
            }
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[waiting]);
    let mut client = agent.http2().await;
    let (response, mut send) = client.start(grpc("/a/B"), false).await;
    assert_eq!(soon("arrival", told.recv()).await.unwrap(), None);
    send.send_reset(Reason::CANCEL);
    assert_eq!(soon("cancel", told.recv()).await.unwrap(), Some(Reason::CANCEL));
    drop(response);
    // A client that vanishes cancels too.
    let (_response, _send) = client.start(grpc("/a/B"), false).await;
    assert_eq!(soon("arrival", told.recv()).await.unwrap(), None);
    client.driver.abort();
    assert_eq!(soon("cancel", told.recv()).await.unwrap(), Some(Reason::CANCEL));
    let flagged = async {
        while agent.metric(&["istio_requests_total", "response_flags=\"DC\""]) < 2.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("two records", flagged).await;
}

#[tokio::test]
async fn the_endpoints_reset_code_reaches_the_client() {
    let resetting = endpoint(|_, mut connection| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(Bytes::from_static(b"part"), false).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                send.send_reset(Reason::ENHANCE_YOUR_CALM);
            });
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[resetting]);
    let error = soon("call", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn grpc_timeout_is_passed_on_and_kept() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let silent = endpoint(move |_, mut connection| {
        let tell = tell.clone();
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let timeout = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
                tell.send(timeout).unwrap();
                let tell = tell.clone();
                tokio::spawn(async move {
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    tell.send(format!("{:?}", reason.unwrap())).unwrap();
                });
            }
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[silent]);
    let mut request = grpc("/a/B");
    request.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let began = std::time::Instant::now();
    let answer = soon("call", agent.http2().await.call(request, message(b"x"))).await.unwrap();
    assert!((150..2000).contains(&began.elapsed().as_millis()));
    assert_eq!(answer.head.headers()["grpc-status"], "14");
    assert_eq!(
        answer.head.headers()["grpc-message"].to_str().unwrap().split(" (").next(),
        Some("upstream request timeout")
    );
    let passed: u32 = told.recv().await.unwrap().strip_suffix('m').unwrap().parse().unwrap();
    assert!((1..=200).contains(&passed), "{passed}");
    assert_eq!(soon("reset", told.recv()).await.unwrap(), "CANCEL");
}

#[tokio::test]
async fn trailers_only_and_informational_heads_pass() {
    let scripted = endpoint(|_, mut connection| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let early = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            respond.send_informational(early).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
                respond.send_response(head.body(()).unwrap(), true).unwrap();
            });
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[scripted]);
    let mut client = agent.http2().await;
    let (mut response, _) = client.start(grpc("/a/B"), true).await;
    let early = soon("103", std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!((early.status().as_u16(), &early.headers()["link"]), (103, &"</a>".parse().unwrap()));
    let head = soon("head", response).await.unwrap();
    assert_eq!(head.headers()["grpc-status"], "5");
    assert!(head.body().is_end_stream(), "trailers-only stays trailers-only");
    assert_eq!(agent.metric(&["istio_requests_total", "grpc_response_status=\"5\""]), 1.0);
}

#[tokio::test]
async fn large_metadata_passes() {
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(1 << 20);
    let mut client = Client::connect(agent.addr, builder).await;
    let mut request = grpc("/a/B");
    for index in 0..8 {
        let name: http::HeaderName = format!("x-large-{index}").parse().unwrap();
        request.headers_mut().insert(name, "v".repeat(60_000).parse().unwrap());
    }
    let answer = soon("call", client.call(request, message(b"x"))).await.unwrap();
    assert_eq!(answer.body, message(b"x"));
}

#[tokio::test]
async fn a_stalled_reader_bounds_what_the_agent_takes() {
    // The endpoint sends for as long as somebody takes it; the client reads nothing.
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let flooding = endpoint(move |_, mut connection| {
        let count = Arc::clone(&count);
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    loop {
                        send.reserve_capacity(16 << 10);
                        let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                        if send.send_data(Bytes::from(vec![0; n]), false).is_err() {
                            return;
                        }
                        count.fetch_add(n, SeqCst);
                    }
                });
            }
        }
    })
    .await;
    let settings = Settings::default();
    let bound = settings.stream_window as usize + settings.send_buffer;
    let agent = Agent::with(Protocol::Grpc, &[flooding], settings);
    let mut client = agent.http2().await;
    let (response, _) = client.start(grpc("/a/B"), true).await;
    let head = soon("head", response).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The client's own window, 65,535 bytes, was invited by the client.
    let seen = taken.load(SeqCst);
    assert!(seen > 65_535, "data flows at all: {seen}");
    assert!(seen <= bound + 65_535, "{seen} bytes for one stalled stream, bound {bound}");
    drop(head);
}

#[tokio::test]
async fn stalled_streams_in_total_refuse_new_requests() {
    let flooding = endpoint(|_, mut connection| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                support::send_all(&mut send, Bytes::from(vec![0; 8 << 20]), true).await;
            });
        }
    })
    .await;
    let settings = Settings { stalled_bytes: 512 << 10, ..Settings::default() };
    let agent = Agent::with(Protocol::Grpc, &[flooding], settings);
    let mut client = agent.http2().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let (response, _) = client.start(grpc("/a/B"), true).await;
        held.push(soon("head", response).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    let refused = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert_eq!(refused.head.headers()["grpc-status"], "14");
    assert_eq!(refused.head.headers()["x-envoy-overloaded"], "true");
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UO\""]), 1.0);
    drop(held);
    let recovered = async {
        loop {
            let (response, _) = client.start(grpc("/a/B"), true).await;
            if !response.await.unwrap().headers().contains_key("x-envoy-overloaded") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("room again", recovered).await;
}

#[tokio::test]
async fn a_half_closed_stream_still_answers() {
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let mut client = agent.http2().await;
    let (response, mut send) = client.start(grpc("/a/Bidi"), false).await;
    let head = soon("head before any message", response).await.unwrap();
    let mut body = head.into_body();
    for word in [&b"one"[..], b"two", b"three"] {
        send.send_data(message(word), false).unwrap();
        let data = soon("echo", body.data()).await.unwrap().unwrap();
        assert_eq!(data, message(word), "each message on its own: nothing waits for more");
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert!(soon("end", body.data()).await.is_none());
    assert_eq!(soon("trailers", body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn small_messages_are_gathered_and_complete() {
    const COUNT: usize = 20_000;
    let streaming = endpoint(|_, mut connection| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                for index in 0..COUNT {
                    let one = message(&(index as u128).to_be_bytes());
                    support::send_all(&mut send, one, false).await;
                }
                send.send_trailers(trailers("0")).unwrap();
            });
        }
    })
    .await;
    let agent = Agent::start(Protocol::Grpc, &[streaming]);
    let answer = soon("stream", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    let want: Vec<u8> = (0..COUNT).flat_map(|index| message(&(index as u128).to_be_bytes())).collect();
    assert!(answer.body == want, "all messages in order");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn draining_loses_no_request() {
    let mut agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let mut client = agent.http2().await;
    let (response, mut send) = client.start(grpc("/a/B"), false).await;
    let head = soon("head", response).await.unwrap();
    agent.stop_listening();
    let drain = agent.workers.drain(Duration::from_secs(10));
    let finish = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_data(message(b"late"), true).unwrap();
        let mut body = head.into_body();
        let data = body.data().await.unwrap().unwrap();
        assert_eq!(data, message(b"late"), "a running stream goes on after GOAWAY");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    };
    let (drained, ()) = soon("drain", async { tokio::join!(drain, finish) }).await;
    assert!(drained);
    // The connection is closed in order: GOAWAY NO_ERROR.
    soon("close", client.driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn endpoints_change_under_a_running_connection() {
    let (a, b) = (echo("a").await, echo("b").await);
    let agent = Agent::start(Protocol::Grpc, &[a]);
    let mut client = agent.http2().await;
    let (response, mut send) = client.start(grpc("/a/B"), false).await;
    let head = soon("head", response).await.unwrap();
    agent.publish(2, Protocol::Grpc, &[b]);
    let answer = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.headers()["x-endpoint"], "b", "in force with the next request");
    send.send_data(message(b"old"), true).unwrap();
    assert_eq!(head.headers()["x-endpoint"], "a");
    let data = soon("old stream", head.into_body().data()).await.unwrap().unwrap();
    assert_eq!(data, message(b"old"), "in-flight requests are unharmed");
}
