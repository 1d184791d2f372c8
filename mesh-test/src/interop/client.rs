//! The client: every case over one channel, then the spread of unary calls over pods.

use super::pb::interop_client::InteropClient;
use super::pb::{Reply, Request};
use super::server::print;
use super::{ECHO, ECHO_BIN, LANGUAGE, LARGEST};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const FAIL_MESSAGE: &str = "näh: 100 % sure\nsecond line";
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every case and prints the summary; `false`: one was not ok.
pub(super) async fn call(target: &str, count: usize, large: usize) -> Result<bool> {
    let channel = Endpoint::from_shared(format!("http://{target}"))?.connect().await.context(target.to_owned())?;
    let stub =
        InteropClient::new(channel.clone()).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST);
    let (mut pods, mut servers) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    let mut cases = BTreeMap::new();
    for case in CASES {
        let ran = tokio::time::timeout(PATIENCE, run(case, stub.clone(), channel.clone(), large)).await;
        cases.insert(*case, ran.context("no end in 60 s").and_then(|r| r));
    }
    let spread = async {
        for _ in 0..count {
            let request = Request { payload: vec![0; 64], reply_bytes: 64, ..Request::default() };
            let reply = stub.clone().unary(request).await?.into_inner();
            *pods.entry(reply.pod).or_default() += 1;
            *servers.entry(reply.language).or_default() += 1;
        }
        anyhow::Ok(())
    };
    let spread = tokio::time::timeout(PATIENCE, spread).await.context("no end in 60 s").and_then(|r| r);
    cases.insert("spread", spread);
    let good = cases.values().all(Result::is_ok);
    let shown = |r: &Result<()>| r.as_ref().map_or_else(|e| format!("{e:#}"), |()| "ok".to_owned());
    let cases: BTreeMap<_, _> = cases.iter().map(|(name, result)| (*name, shown(result))).collect();
    print(&json!({
        "language": LANGUAGE, "target": target, "ok": good, "cases": cases, "pods": pods, "servers": servers,
    }))?;
    Ok(good)
}

const CASES: &[&str] = &[
    "unary_sizes",
    "server_stream",
    "client_stream",
    "bidi_stream",
    "metadata",
    "deadline_passed_on",
    "deadline_exceeded",
    "cancel",
    "status",
    "status_after_replies",
    "unimplemented",
];

type Stub = InteropClient<Channel>;

async fn run(case: &str, stub: Stub, channel: Channel, large: usize) -> Result<()> {
    match case {
        "unary_sizes" => unary_sizes(stub, large).await,
        "server_stream" => server_stream(stub).await,
        "client_stream" => client_stream(stub).await,
        "bidi_stream" => bidi_stream(stub).await,
        "metadata" => metadata(stub).await,
        "deadline_passed_on" => deadline_passed_on(stub).await,
        "deadline_exceeded" => deadline_exceeded(stub).await,
        "cancel" => cancel(stub).await,
        "status" => status(stub).await,
        "status_after_replies" => status_after_replies(stub).await,
        "unimplemented" => unimplemented(channel).await,
        other => bail!("no case {other}"),
    }
}

async fn unary_sizes(mut stub: Stub, large: usize) -> Result<()> {
    for size in [0, 1, 1000, 65_536, large] {
        let request = Request { payload: vec![0; size], reply_bytes: u32::try_from(size)?, ..Request::default() };
        let reply = stub.unary(request).await.with_context(|| format!("{size} bytes"))?.into_inner();
        ensure!(reply.payload.len() == size && reply.received_bytes == size as u64, "{size} bytes: another length");
    }
    Ok(())
}

async fn server_stream(mut stub: Stub) -> Result<()> {
    for (replies, reply_bytes) in [(0, 0), (200, 128), (20, 65_536), (3, 0)] {
        let mut stream = stub.server_stream(Request { replies, reply_bytes, ..Request::default() }).await?.into_inner();
        let mut got = 0;
        while let Some(reply) = stream.message().await? {
            ensure!(reply.payload.len() == reply_bytes as usize, "a reply of another length");
            got += 1;
        }
        ensure!(got == replies, "{got} replies, want {replies}");
    }
    Ok(())
}

async fn client_stream(mut stub: Stub) -> Result<()> {
    for messages in [0_u32, 1, 100] {
        let one = || Request { payload: vec![0; 1000], ..Request::default() };
        let requests = tokio_stream::iter((0..messages).map(move |_| one()));
        let reply = stub.client_stream(requests).await?.into_inner();
        let good = reply.received_messages == messages && reply.received_bytes == u64::from(messages) * 1000;
        ensure!(good, "server got {} messages of {messages}", reply.received_messages);
    }
    Ok(())
}

async fn bidi_stream(mut stub: Stub) -> Result<()> {
    let turn = |i: u32| Request { payload: vec![0; i as usize], replies: 2, reply_bytes: i, ..Request::default() };
    let (send, requests) = mpsc::channel(4);
    // tonic waits for the response's head, and most servers send none before their first reply.
    send.send(turn(0)).await?;
    let mut replies = stub.bidi_stream(ReceiverStream::new(requests)).await?.into_inner();
    for i in 0..20_u32 {
        if i > 0 {
            send.send(turn(i)).await?;
        }
        for _ in 0..2 {
            let reply: Reply = replies.message().await?.context("the stream ended early")?;
            ensure!(reply.payload.len() == i as usize && reply.received_messages == i + 1, "turn {i}: another reply");
        }
    }
    drop(send);
    ensure!(replies.message().await?.is_none(), "a reply after half-close");
    Ok(())
}

async fn metadata(mut stub: Stub) -> Result<()> {
    let binary = MetadataValue::from_bytes(&[0, 1, 0xfe, 0xff]);
    let mut request = tonic::Request::new(Request::default());
    request.metadata_mut().insert(ECHO, "hello".parse()?);
    request.metadata_mut().insert("x-interop-large", "m".repeat(6_000).parse()?);
    request.metadata_mut().insert_bin(ECHO_BIN, binary.clone());
    let response = stub.unary(request).await?;
    // tonic merges initial metadata and trailers of a unary call.
    let got = response.metadata();
    ensure!(got.get(ECHO).is_some_and(|v| v == "hello"), "initial metadata {:?}", got.get(ECHO));
    ensure!(got.get_bin(ECHO_BIN) == Some(&binary), "trailing metadata {:?}", got.get_bin(ECHO_BIN));
    Ok(())
}

async fn deadline_passed_on(mut stub: Stub) -> Result<()> {
    let mut request = tonic::Request::new(Request::default());
    request.set_timeout(Duration::from_secs(30));
    let seen = stub.unary(request).await?.into_inner().deadline_ms;
    ensure!((1..=31_000).contains(&seen), "server saw a deadline of {seen} ms, want 1 to 31000");
    Ok(())
}

async fn deadline_exceeded(mut stub: Stub) -> Result<()> {
    let began = Instant::now();
    let mut request = tonic::Request::new(Request { delay_ms: 10_000, ..Request::default() });
    request.set_timeout(Duration::from_millis(300));
    let error = stub.unary(request).await.err().context("want an error, got an answer")?;
    // tonic's own timer says CANCELLED ("Timeout expired"), a server's or the mesh's DEADLINE_EXCEEDED.
    // A proxy may show a server's own reset at the deadline as UNAVAILABLE, as Envoy does.
    let reset = error.message().contains("remote reset CANCEL") || error.message().contains("upstream request timeout");
    ensure!(reset || matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error}");
    ensure!(began.elapsed() < Duration::from_secs(3), "only after {:?}", began.elapsed());
    Ok(())
}

async fn cancel(mut stub: Stub) -> Result<()> {
    let (send, requests) = mpsc::channel(4);
    send.send(Request { replies: 1, ..Request::default() }).await?;
    let mut replies = stub.bidi_stream(ReceiverStream::new(requests)).await?.into_inner();
    ensure!(replies.message().await?.is_some(), "no first reply");
    // hyper ends the requests before it resets the stream: a server that had nothing to do would be done by then.
    send.send(Request { replies: 1, delay_ms: 3_000, ..Request::default() }).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Dropping both halves resets the stream; the server's summary counts it.
    drop(replies);
    drop(send);
    Ok(())
}

fn failing(replies: u32) -> Request {
    let fail_code = Code::FailedPrecondition as u32;
    Request { replies, reply_bytes: 10, fail_code, fail_message: FAIL_MESSAGE.to_owned(), ..Request::default() }
}

fn expect(error: &Status) -> Result<()> {
    ensure!(error.code() == Code::FailedPrecondition && error.message() == FAIL_MESSAGE, "{error}");
    Ok(())
}

async fn status(mut stub: Stub) -> Result<()> {
    expect(&stub.unary(failing(0)).await.err().context("want an error, got an answer")?)
}

async fn status_after_replies(mut stub: Stub) -> Result<()> {
    let mut replies = stub.server_stream(failing(3)).await?.into_inner();
    for _ in 0..3 {
        ensure!(replies.message().await?.is_some(), "the stream ended early");
    }
    expect(&replies.message().await.err().context("want an error, got a reply or an end")?)
}

async fn unimplemented(channel: Channel) -> Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/undermesh.interop.v1.Interop/Missing");
    let codec = tonic_prost::ProstCodec::<Request, Reply>::default();
    let answer = grpc.unary(tonic::Request::new(Request::default()), path, codec).await;
    let error = answer.err().context("want UNIMPLEMENTED, got an answer")?;
    ensure!(error.code() == Code::Unimplemented, "want UNIMPLEMENTED, got {error}");
    Ok(())
}
