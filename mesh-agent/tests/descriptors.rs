//! Running out of file descriptors. Alone in its process: the limit holds for all of it.

mod support;

use mesh_agent::snapshot::Protocol;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::time::Duration;
use support::{Agent, echo, grpc, message, soon};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn the_accept_loop_outlives_descriptor_exhaustion() {
    let agent = Agent::start(Protocol::Grpc, &[echo("a").await]);
    let mut client = agent.http2().await;
    soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit }).unwrap();
    // The client's socket first: afterwards there is a descriptor for nobody, the agent included.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    // The reset may overtake the look at what became of connect().
    if let Ok(mut refused) = soon("connect", socket.connect(agent.addr)).await {
        let told = soon("the client learns at once", refused.read_u8()).await;
        assert!(told.is_err(), "reset or closed, not served");
    }
    let counted = async {
        while agent.metric(&["reason=\"out-of-descriptors\""]) < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("counted", counted).await;
    let answer = soon("running connections go on", client.call(grpc("/a/B"), message(b"y"))).await.unwrap();
    assert_eq!(answer.body, message(b"y"));

    drop(taken);
    let mut next = agent.http2().await;
    let answer = soon("accepted again", next.call(grpc("/a/B"), message(b"z"))).await.unwrap();
    assert_eq!(answer.body, message(b"z"));
    setrlimit(Resource::Nofile, limit).unwrap();
}
