//! `proto.EchoTestService`: what clients of Istio's test echo app call.

use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::apps::SERVED_BY;
use crate::apps::pod::Pod;
use crate::apps::proto::echo::echo_test_service_server::{EchoTestService, EchoTestServiceServer};
use crate::apps::proto::echo::{EchoRequest, EchoResponse};

/// Answers with the pod's facts, one `Key=value` a line, as Istio's app does, and the message last.
#[derive(Debug)]
pub(super) struct EchoService {
    pod: Pod,
}

impl EchoService {
    pub(super) fn new(pod: &Pod) -> EchoTestServiceServer<Self> {
        EchoTestServiceServer::new(Self { pod: pod.clone() })
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }
}

#[tonic::async_trait]
impl EchoTestService for EchoService {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        self.pod.count_call();
        let version = self.pod.labels.get("version").map_or("", String::as_str);
        let peer = request.remote_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
        let message = format!(
            "StatusCode=200\nServiceVersion={version}\nHostname={}\nIP={peer}\nProto=GRPC\nEcho={}\n",
            self.pod.name,
            request.into_inner().message
        );
        let mut response = Response::new(EchoResponse { message });
        if let Ok(name) = MetadataValue::try_from(&*self.pod.name) {
            response.metadata_mut().insert(SERVED_BY, name);
        }
        Ok(response)
    }
}
