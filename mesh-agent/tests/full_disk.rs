//! A log file that cannot grow any more. Alone in its process: the limit holds for all of it.

mod support;

use mesh_agent::snapshot::Protocol;
use mesh_agent::snapshot::access_log::Encoding;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;
use support::log_file::log_to;
use support::{Agent, Client, echo, grpc, message, soon};
use tokio::signal::unix::{SignalKind, signal};

const REQUESTS: usize = 600;
/// Bytes of a line.
const LINE: usize = 6_000;

async fn ask(client: &mut Client) {
    for _ in 0..REQUESTS {
        let mut request = grpc("/a/B");
        request.headers_mut().insert("x-pad", "p".repeat(LINE).parse().unwrap());
        let answer = soon("call", client.call(request, message(b"x"))).await.unwrap();
        assert_eq!(answer.head.status(), 200);
    }
}

/// As a full disk does, a limit cuts the write that reaches it short and refuses the next.
#[tokio::test]
async fn every_line_is_whole_in_the_file_or_counted() {
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    log_to(&agent.shared.access_log, &file, Encoding::Text, "%REQ(X-PAD)%");
    let log = &agent.shared.access_log;
    // Whoever does not look at SIGXFSZ is ended by it.
    let _heard = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).unwrap();
    let limit = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(1_500_000), ..limit }).unwrap();
    let mut client = agent.http2().await;
    ask(&mut client).await;
    let all_told = async |asked: usize| {
        soon("each line is somewhere", async {
            loop {
                let text = std::fs::read(&file).unwrap_or_default();
                let (whole, cut): (Vec<_>, Vec<_>) =
                    text.split_inclusive(|byte| *byte == b'\n').partition(|line| line.len() == LINE + 1);
                let dropped = usize::try_from(log.dropped()).unwrap();
                if whole.len() + dropped == asked {
                    assert!(cut.len() <= 1 && cut.iter().all(|line| line.len() < LINE), "one reached the limit");
                    return (whole.len(), dropped);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    };
    let (written, dropped) = all_told(REQUESTS).await;
    assert!(written > 0 && dropped > 0, "{written} {dropped}");
    // There is room again.
    setrlimit(Resource::Fsize, limit).unwrap();
    ask(&mut client).await;
    assert_eq!(all_told(2 * REQUESTS).await, (written + REQUESTS, dropped));
}
