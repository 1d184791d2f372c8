//! The admin socket as its users meet it: real sockets, an answerer in place of the control loop.

use super::server::serve_metrics_to;
use super::view::{Failure, LogLevel};
use super::{Answer, Asker, Question, Refusal, SOCKET_NAME, bind, serve, serve_metrics};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Answers log levels from a variable and nothing else.
fn answerer() -> Asker {
    let (asker, mut asked) = Asker::new();
    tokio::spawn(async move {
        let mut filter = "info".to_owned();
        while let Some(ask) = asked.recv().await {
            let answer = match ask.question {
                Question::SetLogLevel(new) if new == "nonsense" => Err(Refusal::Invalid("no such level".into())),
                Question::SetLogLevel(new) => {
                    filter = new;
                    Answer::json(&LogLevel { filter: filter.clone() })
                }
                Question::LogLevel => Answer::json(&LogLevel { filter: filter.clone() }),
                Question::Metrics(format) => Ok(Answer::Metrics(format, "a 1\n".into())),
                _ => Err(Refusal::Unavailable("not in this test".into())),
            };
            let _ = ask.reply.send(answer);
        }
    });
    asker
}

async fn call(dir: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(dir.join(SOCKET_NAME)).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    answer
}

fn put(path: &str, body: &str) -> String {
    format!("PUT {path} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn questions_are_answered_and_refusals_explained() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let run_dir = dir.path().join("run");
    tokio::spawn(serve(bind(&run_dir).expect("binds"), answerer()));

    let answer = call(&run_dir, "GET /log-level HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with(r#"{"filter":"info"}"#), "{answer}");
    let answer = call(&run_dir, &put("/log-level", "debug")).await;
    assert!(answer.ends_with(r#"{"filter":"debug"}"#), "{answer}");
    let answer = call(&run_dir, &put("/log-level", "nonsense")).await;
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("no such level"), "{answer}");
    let answer = call(&run_dir, &put("/kernel/sk-msg", "on")).await;
    assert!(answer.starts_with("HTTP/1.0 409"), "{answer}");
    let answer = call(&run_dir, "GET /nothing HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 404") && answer.contains("GET /status"), "{answer}");
    let answer = call(&run_dir, &put("/status", "")).await;
    assert!(answer.starts_with("HTTP/1.0 405") && answer.contains("allow: GET"), "{answer}");
    let answer = call(&run_dir, &put("/log-level", &"x".repeat(70_000))).await;
    assert!(answer.starts_with("HTTP/1.0 413"), "{answer}");
}

#[tokio::test]
async fn the_socket_is_its_owners_and_a_dead_one_is_replaced() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let run_dir = dir.path().join("run");
    let mode = |path: &Path| std::fs::metadata(path).expect("exists").permissions().mode() & 0o777;

    let listener = bind(&run_dir).expect("binds");
    assert_eq!((mode(&run_dir), mode(&run_dir.join(SOCKET_NAME))), (0o700, 0o600));
    let taken = bind(&run_dir).expect_err("an agent is there").to_string();
    assert!(taken.contains("another agent answers"), "{taken}");
    // As after kill -9: the file stays, nobody listens.
    drop(listener);
    assert!(run_dir.join(SOCKET_NAME).exists());
    bind(&run_dir).expect("replaces the dead socket");
}

#[tokio::test]
async fn an_unusable_run_directory_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("file");
    let error = bind(&file.join("run")).expect_err("a file is no directory").to_string();
    assert!(error.contains("file/run") && error.contains("--run-dir"), "{error}");
}

#[tokio::test]
async fn the_metrics_port_offers_metrics_and_probes_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("address");
    tokio::spawn(serve_metrics(listener, answerer()));
    for (request, expected) in [
        ("GET /metrics HTTP/1.0\r\n\r\n".to_owned(), "a 1\n"),
        ("GET /log-level HTTP/1.0\r\n\r\n".to_owned(), "here are /metrics, /healthz, /readyz"),
        (put("/log-level", "trace"), "here are /metrics, /healthz, /readyz"),
    ] {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(answer.contains(expected), "{request}: {answer}");
    }
}

/// Pods may hold the port's connections; the kubelet's probes come from the host itself.
#[tokio::test]
async fn strangers_have_some_connections_and_probes_always_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("address");
    tokio::spawn(serve_metrics_to(listener, answerer(), 2, |peer| peer == std::net::Ipv4Addr::LOCALHOST));
    let dial = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind(from.parse().expect("address")).expect("binds");
        socket.connect(addr).await.expect("connects")
    };
    let scrape = async |mut stream: TcpStream| {
        let mut answer = String::new();
        // One that was turned away may be told so by a reset.
        let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await;
        let _ = stream.read_to_string(&mut answer).await;
        answer.ends_with("a 1\n")
    };
    let silent = [dial("127.0.0.2:0").await, dial("127.0.0.2:0").await];
    assert!(!scrape(dial("127.0.0.2:0").await).await, "the third is turned away");
    assert!(scrape(dial("127.0.0.1:0").await).await, "a probe is not");
    drop(silent);
    while !scrape(dial("127.0.0.3:0").await).await {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_agent_that_ends_says_so() {
    let (asker, asked) = Asker::new();
    drop(asked);
    let refusal = asker.ask(Question::Status).await.expect_err("nobody answers");
    assert!(refusal.to_string().contains("stopping"));
    let _: Failure = serde_json::from_str(r#"{"error":"x"}"#).expect("the failure body is stable");
}
