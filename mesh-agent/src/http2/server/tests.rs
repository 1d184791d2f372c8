use super::*;
use futures_util::future::{Either, join, select};
use h2::client::{Connection, SendRequest};
use std::future::Future;
use std::pin::pin;
use tokio::io::DuplexStream;

type Client = (SendRequest<Bytes>, Connection<DuplexStream>);

async fn pair() -> (Client, Server<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let settings = Settings::default();
    let (client, server) = join(h2::client::handshake(theirs), Server::handshake(ours, &settings)).await;
    (client.unwrap(), server.unwrap())
}

/// Both sides as far as they come now.
async fn settle(server: &mut Server<DuplexStream>, client: Option<&mut Connection<DuplexStream>>) {
    let mut client = client;
    for _ in 0..10 {
        poll_fn(|cx| {
            assert!(server.poll_accept(cx).is_pending(), "nothing is asked yet");
            if let Some(client) = &mut client {
                assert!(Pin::new(&mut **client).poll(cx).is_pending(), "nothing ends yet");
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// A busy machine's client: it has begun a request, and its connection waits for its turn while the GOAWAY comes.
#[tokio::test(start_paused = true)]
async fn a_request_that_crosses_the_goaway_is_served() {
    let ((mut send, mut client), mut server) = pair().await;
    settle(&mut server, Some(&mut client)).await;
    let (response, _) = send.send_request(Request::get("http://x/").body(()).unwrap(), true).unwrap();
    server.drain();
    settle(&mut server, None).await;
    // Much later than anybody would wait without asking.
    sleep(GRACE * 20).await;
    settle(&mut server, None).await;
    let served = async {
        let (_, responder) = poll_fn(|cx| server.poll_accept(cx)).await.expect("a request").unwrap();
        let ledger = Arc::new(Ledger::new(1 << 20));
        let respond = responder.respond(Response::new(Body::Empty), &ledger);
        assert!(join(respond, poll_fn(|cx| server.poll_accept(cx))).await.1.is_none(), "then it ends");
    };
    let (ended, (response, ())) = join(client, join(response, served)).await;
    assert_eq!(response.expect("an answer").status(), 200);
    ended.expect("in order");
}

/// One that was told opens no more streams, and an idle connection ends.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_in_order() {
    let ((mut send, mut client), mut server) = pair().await;
    settle(&mut server, Some(&mut client)).await;
    server.drain();
    let ended = pin!(join(client, poll_fn(|cx| server.poll_accept(cx))));
    let late = pin!(sleep(GRACE * 3));
    match select(ended, late).await {
        Either::Left(((client, server), _)) => {
            client.expect("in order");
            assert!(server.is_none());
        }
        Either::Right(_) => panic!("it stays"),
    }
    assert!(send.send_request(Request::get("http://x/").body(()).unwrap(), true).is_err());
}
