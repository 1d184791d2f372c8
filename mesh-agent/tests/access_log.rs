//! The access log through the whole path: what a client sees, what an endpoint sees, and the line.

mod support;

use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use mesh_agent::snapshot::access_log::Encoding;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use support::log_file::{LogFile, log_to, says};
use support::{Agent, echo, endpoint, grpc, message, refusing, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An agent that logs to a file of its own.
struct Logged {
    agent: Agent,
    log: LogFile,
}

impl Logged {
    fn start(protocol: Protocol, endpoints: &[SocketAddr], format: &str) -> Self {
        let agent = Agent::with(protocol, endpoints, Settings::default());
        let log = LogFile::of(&agent.shared.access_log, format);
        Self { agent, log }
    }

    async fn lines(&self, count: usize) -> Vec<Value> {
        self.log.lines(count).await
    }
}

#[tokio::test]
async fn an_answer_is_a_line_with_all_of_istios_keys() {
    let server = echo("a").await;
    let logged = Logged::start(Protocol::Http2, &[server], "");
    let mut client = TcpStream::connect(logged.agent.addr).await.unwrap();
    let request = "POST /x?y=1 HTTP/1.1\r\nHost: echo\r\nUser-Agent: t\"e\r\nX-Request-Id: id-1\r\n\
                   X-Forwarded-For: 1.2.3.4\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("answer", client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let line = logged.lines(1).await.remove(0);
    let from = client.local_addr();
    says(
        &line,
        &json!({
            "method": "POST", "path": "/x?y=1", "protocol": "HTTP/1.1", "response_code": 200, "response_flags": "-",
            "response_code_details": "via_upstream", "connection_termination_details": null, "bytes_received": 5,
            "bytes_sent": 5, "x_forwarded_for": "1.2.3.4", "user_agent": "t\"e", "request_id": "id-1",
            "authority": "echo", "upstream_host": server.to_string(), "route_name": "default",
            "upstream_cluster": "outbound|80||echo.default.svc.cluster.local", "requested_server_name": null,
            "downstream_local_address": logged.agent.addr.to_string(), "upstream_transport_failure_reason": null,
        }),
    );
    if let Ok(from) = from {
        assert_eq!(line["downstream_remote_address"], from.to_string());
    }
    assert!(line["upstream_local_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line:#}");
    assert!(
        line["upstream_service_time"].as_str().unwrap().parse::<u64>().unwrap() <= line["duration"].as_u64().unwrap()
    );
    assert!(line["start_time"].as_str().unwrap().ends_with('Z') && line.as_object().unwrap().len() == 24, "{line:#}");
}

#[tokio::test]
async fn grpc_is_known_by_its_trailers() {
    let format = r#"{"grpc": "%GRPC_STATUS%", "number": "%GRPC_STATUS_NUMBER%", "trailer": "%TRAILER(GRPC-STATUS)%",
        "by": "%RESP(X-ENDPOINT)%", "to": "%REQ(:PATH)%", "bytes": "%BYTES_RECEIVED% %BYTES_SENT%"}"#;
    let logged = Logged::start(Protocol::Grpc, &[echo("a").await], format);
    let answer = soon("call", logged.agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let expected = json!({"grpc": "OK", "number": 0, "trailer": "0", "by": "a", "to": "/a/B", "bytes": "6 6"});
    assert_eq!(logged.lines(1).await, [expected]);
}

#[tokio::test]
async fn refused_requests_say_why() {
    for (endpoints, flags, details, transport) in [
        (vec![], "UH", "no_healthy_upstream", None),
        (
            vec![refusing()],
            "URX,UF",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
            Some("delayed_connect_error:_Connection_refused"),
        ),
    ] {
        let logged = Logged::start(Protocol::Http, &endpoints, "");
        let mut client = TcpStream::connect(logged.agent.addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        soon("answer", client.read_to_string(&mut answer)).await.unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        says(
            &logged.lines(1).await[0],
            &json!({
                "response_code": 503, "response_flags": flags, "response_code_details": details,
                "upstream_transport_failure_reason": transport, "bytes_sent": body.len(), "bytes_received": 0,
                "upstream_host": endpoints.first().map(ToString::to_string), "upstream_service_time": null,
                "upstream_cluster": "outbound|80||echo.default.svc.cluster.local",
            }),
        );
        let flags = format!("response_flags=\"{flags}\"");
        assert_eq!(logged.agent.metric(&["istio_requests_total", &flags]), 1.0);
    }
}

#[tokio::test]
async fn a_retried_request_is_one_line() {
    let server = echo("a").await;
    let format = r#"{"code": "%RESPONSE_CODE%", "host": "%UPSTREAM_HOST%", "n": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}"#;
    let logged = Logged::start(Protocol::Grpc, &[refusing(), server], format);
    let mut client = logged.agent.http2().await;
    for _ in 0..4 {
        soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    }
    let lines = logged.lines(4).await;
    assert!(lines.iter().all(|line| line["code"] == 200 && line["host"] == server.to_string()), "{lines:?}");
    assert!(lines.iter().any(|line| line["n"] == 2), "{lines:?}");
    assert_eq!(logged.agent.metric(&["istio_requests_total"]), 4.0);
}

#[tokio::test]
async fn a_client_that_leaves_is_a_line_too() {
    let silent = endpoint(|_, mut connection| async move {
        let mut held = Vec::new();
        while let Some(Ok(request)) = connection.accept().await {
            held.push(request);
        }
    })
    .await;
    let logged = Logged::start(Protocol::Grpc, &[silent], "");
    let mut client = logged.agent.http2().await;
    let (_response, mut send) = client.start(grpc("/a/B"), false).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    send.send_reset(h2::Reason::CANCEL);
    says(
        &logged.lines(1).await[0],
        &json!({
            "response_code": 0, "response_flags": "DC", "response_code_details": "downstream_remote_disconnect",
            "path": "/a/B", "upstream_host": silent.to_string(),
        }),
    );
    assert_eq!(logged.agent.metric(&["istio_requests_total", "response_flags=\"DC\""]), 1.0);
}

#[tokio::test]
async fn an_opaque_connection_is_a_line() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sink = Vec::new();
        stream.read_to_end(&mut sink).await.unwrap();
        stream.write_all(b"220 bye").await.unwrap();
    });
    let logged = Logged::start(Protocol::Tcp, &[server], "");
    let mut client = TcpStream::connect(logged.agent.addr).await.unwrap();
    client.write_all(b"\x01hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    soon("answer", client.read_to_string(&mut text)).await.unwrap();
    says(
        &logged.lines(1).await[0],
        &json!({
            "method": null, "path": null, "protocol": null, "response_code": 0, "response_flags": "-",
            "response_code_details": null, "bytes_received": 6, "bytes_sent": 7, "route_name": null,
            "upstream_host": server.to_string(), "upstream_cluster": "outbound|80||echo.default.svc.cluster.local",
        }),
    );
    // And one that came to nothing.
    let logged = Logged::start(Protocol::Tcp, &[refusing()], "");
    let refused = async { TcpStream::connect(logged.agent.addr).await?.read_u8().await };
    assert!(soon("reset", refused).await.is_err());
    let reason = "delayed_connect_error:_Connection_refused";
    let expected = json!({"response_flags": "UF", "upstream_transport_failure_reason": reason, "upstream_host": null});
    says(&logged.lines(1).await[0], &expected);
}

/// Nobody reads the pipe: requests do not notice, and every line is either in the pipe later or counted.
#[tokio::test]
async fn a_full_pipe_costs_lines_and_no_time() {
    const REQUESTS: usize = 1_000;
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap();
    log_to(&agent.shared.access_log, &pipe, Encoding::Text, "%REQ(X-PAD)%");
    let mut client = agent.http2().await;
    for _ in 0..REQUESTS {
        let mut request = grpc("/a/B");
        request.headers_mut().insert("x-pad", "p".repeat(6000).parse().unwrap());
        // Whoever waited for the pipe would wait for ever: it is read only afterwards.
        let answer = soon("call", client.call(request, message(b"x"))).await.unwrap();
        assert_eq!(answer.head.status(), 200);
    }
    assert!(agent.shared.access_log.dropped() > 0, "6 MB do not fit");
    let mut text = Vec::new();
    soon("lines", async {
        loop {
            // Until it would block.
            let _ = reader.read_to_end(&mut text);
            let written = text.iter().filter(|byte| **byte == b'\n').count();
            if written + usize::try_from(agent.shared.access_log.dropped()).unwrap() == REQUESTS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let whole = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    assert!(whole.into_iter().all(|line| line.len() == 6000), "no line is torn");
}
