//! Each protocol of the echo app over real sockets on loopback.

use std::net::SocketAddr;

use clap::Parser;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::apps::call::{self, Outcome};
use crate::apps::listen::{Trigger, bind};
use crate::apps::load::client::CallArgs;
use crate::apps::proto::echo::EchoRequest;
use crate::apps::proto::echo::echo_test_service_client::EchoTestServiceClient;

/// An echo app with one port; it leaves when `trigger` is dropped.
struct App {
    address: SocketAddr,
    trigger: Trigger,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn start(protocol: Protocol) -> App {
    let pod = Pod::named("echo-0");
    let listener = bind(0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let (trigger, shutdown) = Shutdown::pair();
    let port = Port { name: "p".to_owned(), protocol, number: address.port() };
    let args = Limits::parse_from(["echo", "--drain-ms", "3000"]).grpc;
    let serving =
        tokio::spawn(async move { serve(vec![(port, listener)], &pod, Some("hello"), &args, shutdown).await });
    App { address, trigger, serving }
}

#[derive(Parser)]
struct Limits {
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Parser)]
struct Calls {
    #[command(flatten)]
    call: CallArgs,
}

async fn call(target: &str, options: &str) -> Outcome {
    let arguments = ["call", "--target", target].into_iter().chain(options.split_whitespace());
    call::once(Calls::parse_from(arguments).call).await.unwrap()
}

#[tokio::test]
async fn http_echoes_the_request_over_both_versions_and_both_families() {
    let app = start(Protocol::Http);
    for target in [app.address.to_string(), format!("[::1]:{}", app.address.port())] {
        for (kind, version) in [("http", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
            let options = format!("--kind {kind} --path /a/b?x=1 --bytes 5 --metadata x-one=two");
            let outcome = call(&target, &options).await;
            assert!(outcome.ok, "{outcome:?}");
            assert_eq!(outcome.replica, "echo-0");
            let body = &outcome.answer["body"];
            assert_eq!(body["path"], "/a/b");
            assert_eq!(body["method"], "POST");
            assert_eq!(body["http"], version);
            assert_eq!(body["body_bytes"], 5);
            assert_eq!(body["args"], json!({ "x": "1" }));
            assert_eq!(body["headers"]["x-one"], "two");
            assert_eq!(body["headers"]["host"], target.as_str());
            assert!(["127.0.0.1", "::1"].contains(&body["origin"].as_str().unwrap()), "{body}");
        }
    }
}

#[tokio::test]
async fn httpbin_and_helloworld_paths_do_what_they_do_there() {
    let app = start(Protocol::Http);
    let target = app.address.to_string();
    let hello = call(&target, "--kind http --path /hello").await;
    assert_eq!(hello.answer["body"], "Hello version: unknown, instance: echo-0\n");
    let status = call(&target, "--kind http --path /status/503").await;
    assert_eq!((status.ok, status.code.as_str()), (false, "503"));
    let bytes = call(&target, "--kind http --path /bytes/100000").await;
    assert_eq!(bytes.answer["body_bytes"], 100_000);
    let lines = call(&target, "--kind http2 --path /stream/3").await;
    assert_eq!(lines.answer["body"].as_str().unwrap().lines().count(), 3);
    let delay = call(&target, "--kind http --path /delay/0.2").await;
    assert!(delay.ok && delay.elapsed_us >= 200_000, "{delay:?}");
    let page = call(&target, "--kind http --path /productpage").await;
    assert_eq!(page.answer["status"], 200);
}

#[tokio::test]
async fn grpc_answers_all_four_call_kinds_on_every_port_that_may_carry_it() {
    for protocol in [Protocol::Grpc, Protocol::Http, Protocol::Detect] {
        let app = start(protocol);
        let target = app.address.to_string();
        for (method, messages) in [("unary", 1), ("client-stream", 1), ("server-stream", 3), ("bidi", 3)] {
            let options = format!(
                "--method {method} --messages 3 --bytes 10 --reply-bytes 7 --metadata x-one=two --timeout-ms 4000"
            );
            let outcome = call(&target, &options).await;
            assert!(outcome.ok, "{protocol} {method}: {outcome:?}");
            assert_eq!((outcome.replica.as_str(), outcome.messages), ("echo-0", messages), "{protocol} {method}");
            assert_eq!(outcome.answer["payload_bytes"], 7);
            assert_eq!(outcome.answer["asked"]["x-one"], "two");
            assert_eq!(outcome.answer["asked"][":authority"], target.as_str());
            assert_eq!(outcome.answer["asked"]["grpc-timeout"], "4000000u");
            assert!(outcome.answer["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
            let failed = call(&target, &format!("--method {method} --fail-code 9")).await;
            assert_eq!(failed.code, "FailedPrecondition", "{protocol} {method}");
            assert!(failed.message.contains("echo-0"), "{failed:?}");
        }
    }
}

#[tokio::test]
async fn grpc_ports_have_istios_echo_health_and_reflection() {
    let app = start(Protocol::Grpc);
    let url = format!("http://{}", app.address);
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let echo = EchoTestServiceClient::new(channel.clone()).echo(EchoRequest { message: "hi".to_owned() }).await;
    let echoed = echo.unwrap().into_inner().message;
    assert!(echoed.contains("Hostname=echo-0\n") && echoed.contains("Echo=hi\n"), "{echoed}");
    let check = tonic_health::pb::HealthCheckRequest { service: "pingpong.v1.PingPong".to_owned() };
    let health = tonic_health::pb::health_client::HealthClient::new(channel.clone()).check(check).await.unwrap();
    assert_eq!(health.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("reflection did not list services");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for expected in ["pingpong.v1.PingPong", "proto.EchoTestService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expected), "{names:?}");
    }
}

#[tokio::test]
async fn a_tcp_port_answers_lines_and_the_last_one_after_half_close() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        let app = start(protocol);
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(b"world\ntwo\nno end").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world\nhello two\nhello no end", "{protocol}");
    }
}

#[tokio::test]
async fn a_greeting_port_speaks_first() {
    let app = start(Protocol::Greet);
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 echo-0 ready\r\n");
    stream.write_all(b"x\n").await.unwrap();
    let mut line = [0; 8];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello x\n");
}

#[tokio::test]
async fn a_shutdown_refuses_new_connections_and_finishes_calls_in_flight() {
    for (protocol, options) in [
        (Protocol::Grpc, "--delay-ms 600"),
        (Protocol::Grpc, "--method server-stream --messages 3 --delay-ms 200"),
        (Protocol::Http, "--kind http --path /delay/0.6"),
        (Protocol::Http, "--kind http2 --path /delay/0.6"),
    ] {
        let app = start(protocol);
        let target = app.address.to_string();
        let (in_flight, options) = (target.clone(), options.to_owned());
        let slow = tokio::spawn(async move { call(&in_flight, &options).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.trigger.fire();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refused = TcpStream::connect(app.address).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let slow = slow.await.unwrap();
        assert!(slow.ok, "{protocol}: {slow:?}");
        // The idle connection of the client that finished must not hold the pod until the drain limit.
        tokio::time::timeout(Duration::from_secs(2), app.serving).await.unwrap().unwrap().unwrap();
    }
}
