//! `ws002-pingpong`: the gRPC server of the ping-pong app, all four call kinds.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{KeyAndValueRef, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use super::event::{Event, emit};
use super::grpc::{Authority, GrpcArgs};
use super::listen::{Shutdown, accept, announce};
use super::pod::{Pod, PodArgs};
use super::proto::pingpong::ping_pong_server::{PingPong, PingPongServer};
use super::proto::pingpong::{PingReply, PingRequest};
use super::{SERVED_BY, grpc};

/// Arguments of `mesh-app pingpong`.
#[derive(Debug, Args)]
pub struct PingPongArgs {
    /// Port to listen on, both families.
    #[arg(long, default_value_t = 9000)]
    port: u16,
    #[command(flatten)]
    grpc: GrpcArgs,
    #[command(flatten)]
    pod: PodArgs,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The port is taken.
pub async fn run(args: PingPongArgs) -> anyhow::Result<()> {
    let pod = Pod::from(args.pod);
    let shutdown = Shutdown::on_signals(&pod)?;
    let listener = announce(&pod, "grpc", "grpc", args.port)?;
    let connections = accept(listener, &pod, shutdown.clone());
    let (routes, health) = grpc::with_standard_services(Routes::new(service(&pod)), &["pingpong.v1.PingPong"]).await?;
    grpc::serve(connections, routes, health, shutdown, &args.grpc).await?;
    emit(&Event::Stopped { pod: pod.name.to_string(), calls: pod.calls() });
    Ok(())
}

/// The tonic service, without tonic's 4 MiB limit on messages.
pub fn service(pod: &Pod) -> PingPongServer<PingPongService> {
    PingPongServer::new(PingPongService { pod: pod.clone() })
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// The server's implementation; answers in the name of its pod.
#[derive(Debug, Clone)]
pub struct PingPongService {
    pod: Pod,
}

type Replies = Pin<Box<dyn Stream<Item = Result<PingReply, Status>> + Send>>;

#[tonic::async_trait]
impl PingPong for PingPongService {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        let call = Call::new(&self.pod, &request);
        let request = request.into_inner();
        pause(&request).await;
        call.verdict(&request)?;
        Ok(call.signed(call.reply(&request, 1, 1, request.payload.len())))
    }

    type PingStreamStream = Replies;

    async fn ping_stream(&self, request: Request<PingRequest>) -> Result<Response<Replies>, Status> {
        let call = Call::new(&self.pod, &request);
        let request = request.into_inner();
        let (count, bytes) = (u64::from(request.replies.max(1)), request.payload.len());
        let answered = call.clone();
        let replies = stream::unfold((1, answered, request), move |(sequence, call, request)| async move {
            if sequence <= count {
                pause(&request).await;
                let reply = call.reply(&request, sequence, 1, bytes);
                return Some((Ok(reply), (sequence + 1, call, request)));
            }
            let end = (sequence == count + 1).then(|| call.verdict(&request).err()).flatten()?;
            Some((Err(end), (sequence + 1, call, request)))
        });
        Ok(call.signed(replies.boxed()))
    }

    async fn ping_collect(&self, request: Request<Streaming<PingRequest>>) -> Result<Response<PingReply>, Status> {
        let call = Call::new(&self.pod, &request);
        let mut requests = request.into_inner();
        let (mut count, mut bytes, mut last) = (0, 0, PingRequest::default());
        while let Some(request) = requests.message().await? {
            count += 1;
            bytes += request.payload.len();
            last = request;
        }
        pause(&last).await;
        call.verdict(&last)?;
        Ok(call.signed(call.reply(&last, 1, count, bytes)))
    }

    type PingChatStream = Replies;

    async fn ping_chat(&self, request: Request<Streaming<PingRequest>>) -> Result<Response<Replies>, Status> {
        let call = Call::new(&self.pod, &request);
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(call.clone().chat(request.into_inner(), sender));
        Ok(call.signed(ReceiverStream::new(receiver).boxed()))
    }
}

/// What one call knows of its caller.
#[derive(Debug, Clone)]
struct Call {
    pod: Pod,
    peer: String,
    asked: BTreeMap<String, String>,
}

impl Call {
    fn new<T>(pod: &Pod, request: &Request<T>) -> Self {
        pod.count_call();
        let mut asked: BTreeMap<String, String> = request
            .metadata()
            .iter()
            .filter_map(|entry| match entry {
                KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().ok()?.to_owned())),
                KeyAndValueRef::Binary(..) => None,
            })
            .collect();
        if let Some(Authority(authority)) = request.extensions().get() {
            asked.insert(":authority".to_owned(), authority.clone());
        }
        let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
        Self { pod: pod.clone(), peer, asked }
    }

    /// The status the request asks the call to end with; `Ok` for code 0.
    fn verdict(&self, request: &PingRequest) -> Result<(), Status> {
        let code = i32::try_from(request.fail_code).map_or(Code::Unknown, Code::from_i32);
        if code == Code::Ok {
            return Ok(());
        }
        let mut status = Status::new(code, format!("{} was asked to fail", self.pod.name));
        if let Ok(name) = MetadataValue::try_from(&*self.pod.name) {
            status.metadata_mut().insert(SERVED_BY, name);
        }
        Err(status)
    }

    fn reply(&self, request: &PingRequest, sequence: u64, requests: u64, received: usize) -> PingReply {
        PingReply {
            pod: self.pod.name.to_string(),
            message: request.message.clone(),
            sequence,
            requests,
            received_bytes: received as u64,
            payload: vec![0; request.reply_bytes as usize],
            peer: self.peer.clone(),
            asked: self.asked.clone(),
        }
    }

    fn signed<T>(&self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        if let Ok(name) = MetadataValue::try_from(&*self.pod.name) {
            response.metadata_mut().insert(SERVED_BY, name);
        }
        response
    }

    /// Answers each request as it comes; ends when the caller does, cancels, or asks for a failure.
    async fn chat(self, mut requests: Streaming<PingRequest>, replies: mpsc::Sender<Result<PingReply, Status>>) {
        let (mut sequence, mut count, mut bytes) = (0, 0, 0);
        loop {
            let request = match requests.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    let _ = replies.send(Err(status)).await;
                    return;
                }
            };
            count += 1;
            bytes += request.payload.len();
            for _ in 0..request.replies.max(1) {
                pause(&request).await;
                sequence += 1;
                if replies.send(Ok(self.reply(&request, sequence, count, bytes))).await.is_err() {
                    return;
                }
            }
            if let Err(status) = self.verdict(&request) {
                let _ = replies.send(Err(status)).await;
                return;
            }
        }
    }
}

async fn pause(request: &PingRequest) {
    if request.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(u64::from(request.delay_ms))).await;
    }
}
