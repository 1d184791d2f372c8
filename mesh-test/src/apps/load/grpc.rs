//! Calls of `pingpong.v1.PingPong`.

use anyhow::Context as _;
use futures_util::stream;
use serde_json::json;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::client::{Answer, CallArgs, Failure, Method};
use crate::apps::proto::pingpong::ping_pong_client::PingPongClient;
use crate::apps::proto::pingpong::{PingReply, PingRequest};

/// A request with the metadata and the deadline asked for.
pub(super) fn request<T>(args: &CallArgs, message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    for (key, value) in &args.metadata {
        let name = MetadataKey::from_bytes(key.as_bytes()).with_context(|| format!("`{key}` is no metadata key"))?;
        let value = MetadataValue::try_from(value).with_context(|| format!("`{value}` is no metadata value"))?;
        request.metadata_mut().append(name, value);
    }
    request.set_timeout(args.timeout());
    Ok(request)
}

/// One call of the kind that `args` names. A call that has not left this client when its connection is told to go away is
/// made on the next one, as gRPC's own clients do and tonic does not (gRFC A6, transparent retries).
pub(super) async fn call(channel: Channel, args: &CallArgs) -> Result<Answer, Failure> {
    loop {
        match attempt(channel.clone(), args).await {
            Err(status) if is_unsent(&status) => {}
            Err(status) => return Err(Failure::new(&format!("{:?}", status.code()), describe(&status))),
            Ok(answer) => return Ok(answer),
        }
    }
}

async fn attempt(channel: Channel, args: &CallArgs) -> Result<Answer, Status> {
    let mut client =
        PingPongClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let invalid = |error: anyhow::Error| Status::invalid_argument(format!("{error:#}"));
    let one = PingRequest {
        message: args.message.clone(),
        payload: vec![0; args.bytes],
        replies: if args.method == Method::ServerStream { args.messages } else { 1 },
        reply_bytes: args.reply_bytes,
        delay_ms: args.delay_ms,
        fail_code: args.fail_code,
    };
    let many = stream::iter(vec![
        one.clone();
        if matches!(args.method, Method::ClientStream | Method::Bidi) {
            args.messages as usize
        } else {
            0
        }
    ]);
    let answered = match args.method {
        Method::Unary => client.ping(request(args, one).map_err(invalid)?).await.map(|reply| (reply.into_inner(), 1)),
        Method::ClientStream => {
            client.ping_collect(request(args, many).map_err(invalid)?).await.map(|reply| (reply.into_inner(), 1))
        }
        Method::ServerStream => match client.ping_stream(request(args, one).map_err(invalid)?).await {
            Ok(replies) => drain(replies.into_inner()).await,
            Err(status) => Err(status),
        },
        Method::Bidi => match client.ping_chat(request(args, many).map_err(invalid)?).await {
            Ok(replies) => drain(replies.into_inner()).await,
            Err(status) => Err(status),
        },
    };
    let (last, messages) = answered?;
    Ok(Answer { replica: last.pod.clone(), messages, last: to_json(&last) })
}

/// hyper calls a request canceled that it still had in its queue when the connection ended.
fn is_unsent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn drain(mut replies: Streaming<PingReply>) -> Result<(PingReply, u64), Status> {
    let (mut last, mut count) = (PingReply::default(), 0);
    while let Some(reply) = replies.message().await? {
        count += 1;
        last = reply;
    }
    Ok((last, count))
}

fn to_json(reply: &PingReply) -> serde_json::Value {
    json!({
        "pod": reply.pod,
        "message": reply.message,
        "sequence": reply.sequence,
        "requests": reply.requests,
        "received_bytes": reply.received_bytes,
        "payload_bytes": reply.payload.len(),
        "peer": reply.peer,
        "asked": reply.asked,
    })
}

/// tonic's message for a lost transport says little; its chain of causes says which connection failed and why.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
