//! How long HTTP/2 connections to endpoints live: PINGs that stay unanswered, and age.

mod support;

use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use support::{Agent, echo_one, endpoint, grpc, message, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

const SHORT: Duration = Duration::from_millis(150);

fn pinging() -> Settings {
    Settings { ping_interval: Some(SHORT), ping_timeout: SHORT, ..Settings::default() }
}

/// An endpoint that greets, reads everything, and never says another word. Tells when a connection has ended.
async fn mute() -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                // An empty SETTINGS frame.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut sink = Vec::new();
                let _ = stream.read_to_end(&mut sink).await;
                let _ = tell.send(());
            });
        }
    });
    (addr, told)
}

#[tokio::test]
async fn an_endpoint_that_answers_no_ping_is_closed() {
    let (mute, mut ended) = mute().await;
    let agent = Agent::with(Protocol::Grpc, &[mute], pinging());
    let began = Instant::now();
    let answer = soon("call", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    let took = began.elapsed();
    // The request was sent: nobody knows what became of it, so it is not repeated.
    assert_eq!(answer.head.headers()["grpc-status"], "14");
    let text = answer.head.headers()["grpc-message"].to_str().unwrap();
    assert!(text.contains("connection termination"), "{text}");
    assert!(took >= 2 * SHORT && took < Duration::from_secs(5), "{took:?}");
    soon("the endpoint sees the end", ended.recv()).await.unwrap();
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UC\""]), 1.0);
    assert_eq!(agent.metric(&["mesh_retries_total"]), 0.0);
}

#[tokio::test]
async fn a_slow_call_to_an_endpoint_that_answers_pings_goes_on() {
    let slow = endpoint(|_, mut connection| async move {
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(8 * SHORT).await;
                echo_one("slow", request, respond).await;
            });
        }
    })
    .await;
    let agent = Agent::with(Protocol::Grpc, &[slow], pinging());
    let answer = soon("call", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.headers()["x-endpoint"], "slow");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

/// gRPC servers answer PINGs without streams with GOAWAY (gRFC A8), and there is nobody to be saved.
#[tokio::test]
async fn an_idle_connection_is_not_pinged() {
    let (mute, mut ended) = mute().await;
    let agent = Agent::with(Protocol::Grpc, &[mute], pinging());
    let mut client = agent.http2().await;
    let (response, mut send) = client.start(grpc("/a/B"), false).await;
    tokio::time::sleep(SHORT / 3).await;
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert!(tokio::time::timeout(6 * SHORT, ended.recv()).await.is_err(), "closed although nobody waited for it");
}

#[tokio::test]
async fn connections_of_age_give_way_and_no_call_is_lost() {
    const AGE: Duration = Duration::from_millis(300);
    let (tell, mut ended) = mpsc::unbounded_channel();
    let counting = endpoint(move |index, mut connection| {
        let tell = tell.clone();
        async move {
            loop {
                match connection.accept().await {
                    Some(Ok((mut request, respond))) => {
                        request.headers_mut().insert("x-index", index.into());
                        tokio::spawn(indexed(request, respond));
                    }
                    Some(Err(error)) => return tell.send((index, Err(error.to_string()))).unwrap(),
                    None => return tell.send((index, Ok(()))).unwrap(),
                }
            }
        }
    })
    .await;
    let settings = Settings { max_connection_age: Some(AGE), ..Settings::default() };
    let agent = Agent::with(Protocol::Grpc, &[counting], settings);
    let mut client = agent.http2().await;
    let (response, mut held) = client.start(grpc("/a/Bidi"), false).await;
    let mut held_body = soon("head", response).await.unwrap().into_body();
    let (began, mut seen) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < 5 * AGE {
        let answer = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.expect("no call is lost");
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        seen.insert(answer.head.headers()["x-index"].to_str().unwrap().to_owned());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Ages of 270 to 330 ms in 1.5 s: four to six connections.
    assert!((4..=7).contains(&seen.len()), "{seen:?}");
    assert_eq!(agent.metric(&["mesh_retries_total"]), 0.0, "nothing was refused on the way");
    // The first connection lives for the sake of its stream, and ends in order with it.
    held.send_data(message(b"still here"), true).unwrap();
    assert_eq!(soon("echo", held_body.data()).await.unwrap().unwrap(), message(b"still here"));
    assert_eq!(soon("trailers", held_body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
    let mut orderly = BTreeSet::new();
    while orderly.len() + 1 < seen.len() {
        let (index, end) = soon("old connections end", ended.recv()).await.unwrap();
        assert_eq!(end, Ok(()), "connection {index}");
        orderly.insert(index);
    }
    assert!(orderly.contains(&0), "{orderly:?}");
}

/// Echoes and says on which connection.
async fn indexed(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<bytes::Bytes>) {
    let head = http::Response::builder().header("x-index", &request.headers()["x-index"]).body(()).unwrap();
    let mut send = respond.send_response(head, false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        support::send_all(&mut send, data, false).await;
    }
    let _ = send.send_trailers(support::trailers("0"));
}
