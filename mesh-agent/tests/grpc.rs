//! gRPC through an explicit listener: what the endpoints and the client must see.

mod support;

use bytes::Bytes;
use mesh_agent::snapshot::Protocol;
use support::{Agent, echo, grpc, message, refusing, soon};

#[tokio::test]
async fn unary_calls_of_one_connection_are_balanced_exactly() {
    let endpoints = [echo("a").await, echo("b").await, echo("c").await];
    let agent = Agent::start(Protocol::Grpc, &endpoints);
    let mut client = agent.http2().await;
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..30 {
        let answer = soon("call", client.call(grpc("/echo/Unary"), message(b"hello"))).await.unwrap();
        assert_eq!(answer.body, message(b"hello"));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        *counts.entry(answer.head.headers()["x-endpoint"].to_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    assert_eq!(agent.metric(&["istio_requests_total", "code=\"200\"", "grpc_response_status=\"0\""]), 30.0);
}

#[tokio::test]
async fn a_refusing_endpoint_costs_no_call() {
    let endpoints = [refusing(), echo("b").await];
    let agent = Agent::start(Protocol::Grpc, &endpoints);
    let mut client = agent.http2().await;
    for _ in 0..10 {
        let answer = soon("call", client.call(grpc("/echo/Unary"), message(b"x"))).await.unwrap();
        assert_eq!(answer.head.headers()["x-endpoint"], "b");
    }
    assert!(agent.metric(&["mesh_retries_total"]) >= 1.0);
}

#[tokio::test]
async fn without_a_working_endpoint_the_answer_names_it() {
    let dead = refusing();
    let agent = Agent::start(Protocol::Grpc, &[dead]);
    let answer = soon("call", agent.http2().await.call(grpc("/echo/Unary"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.headers()["grpc-status"], "14");
    let text = answer.head.headers()["grpc-message"].to_str().unwrap();
    assert!(text.contains("connection refused") && text.contains(&dead.to_string()), "{text}");
    assert!(answer.trailers.is_none() && answer.body.is_empty(), "trailers-only");

    let agent = Agent::start(Protocol::Grpc, &[]);
    let answer = soon("call", agent.http2().await.call(grpc("/echo/Unary"), message(b"x"))).await.unwrap();
    assert!(answer.head.headers()["grpc-message"].to_str().unwrap().contains("no healthy upstream"));
}

#[tokio::test]
async fn messages_of_any_size_arrive_whole() {
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let mut client = agent.http2().await;
    for size in [0, 1, 16_384, 1 << 20, 64 << 20] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let sent = message(&payload);
        let answer = soon("call", client.call(grpc("/echo/Unary"), sent.clone())).await.unwrap();
        assert!(answer.body == sent, "{size} bytes");
    }
    let empty = soon("call", client.call(grpc("/echo/Unary"), Bytes::new())).await.unwrap();
    assert!(empty.body.is_empty());
}
