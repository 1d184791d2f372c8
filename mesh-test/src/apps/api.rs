//! `ws001-api`: the HTTP half of the ping-pong app. Each request becomes one RPC on **one** long-lived HTTP/2
//! connection to `ws002-pingpong`: the client that a connection-level balancer cannot balance.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tonic::transport::Channel;

use super::SERVED_BY;
use super::dial::{Dialer, split_target};
use super::event::{Event, emit};
use super::listen::{Shutdown, announce};
use super::load::report::{Report, Tally};
use super::pod::{Pod, PodArgs};
use super::proto::pingpong::PingRequest;
use super::proto::pingpong::ping_pong_client::PingPongClient;

/// Arguments of `mesh-app api`.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// Port to listen on, both families.
    #[arg(long, default_value_t = 7001)]
    port: u16,
    /// The gRPC service, host:port.
    #[arg(long, default_value = "ws002-pingpong:9000")]
    upstream: String,
    /// Names to look up before the system's, in the form of /etc/hosts.
    #[arg(long)]
    hosts: Option<PathBuf>,
    /// Milliseconds an RPC may take.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
    #[command(flatten)]
    pod: PodArgs,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The port is taken, `upstream` is not host:port, or `hosts` cannot be read.
pub async fn run(args: ApiArgs) -> anyhow::Result<()> {
    let pod = Pod::from(args.pod);
    let shutdown = Shutdown::on_signals(&pod)?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let api = Api::new(&pod, &args.upstream, Dialer::new(args.hosts.as_deref(), Some(timeout))?, timeout)?;
    let listener = announce(&pod, "http", "http", args.port)?;
    api.serve(listener, shutdown).await?;
    emit(&Event::Stopped { pod: pod.name.to_string(), calls: pod.calls() });
    Ok(())
}

/// The app's state: one channel, and what came of its calls.
#[derive(Debug, Clone)]
pub struct Api {
    pod: Pod,
    upstream: Arc<str>,
    channel: Channel,
    dialer: Dialer,
    timeout: Duration,
    tally: Arc<Mutex<Tally>>,
    started: Instant,
}

impl Api {
    /// Connects on the first call, and again whenever the connection is lost.
    ///
    /// # Errors
    /// `upstream` is not host:port.
    pub fn new(pod: &Pod, upstream: &str, dialer: Dialer, timeout: Duration) -> anyhow::Result<Self> {
        split_target(upstream)?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{upstream}"))?;
        Ok(Self {
            pod: pod.clone(),
            upstream: upstream.into(),
            channel: endpoint.connect_with_connector_lazy(dialer.clone()),
            dialer,
            timeout,
            tally: Arc::default(),
            started: Instant::now(),
        })
    }

    /// Serves `listener` until `shutdown`, then finishes the requests in flight.
    ///
    /// # Errors
    /// The listener fails for good.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
        let router = axum::Router::new()
            .route("/api/pingpong", get(pingpong))
            .route("/api/stats", get(stats))
            .route("/healthz", get(|| async { "ok\n" }))
            .with_state(self)
            .into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, router).with_graceful_shutdown(shutdown.wait()).await
    }

    async fn ping(&self, message: String) -> Result<Pong, Failed> {
        self.pod.count_call();
        let mut request = tonic::Request::new(PingRequest { message, ..PingRequest::default() });
        request.set_timeout(self.timeout);
        let begun = Instant::now();
        let outcome = PingPongClient::new(self.channel.clone()).ping(request).await;
        let mut tally = self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match outcome {
            Ok(reply) => {
                let reply = reply.into_inner();
                tally.success(&reply.pod, 1, begun.elapsed());
                Ok(Pong { pod: reply.pod, from: self.pod.name.to_string(), message: reply.message, peer: reply.peer })
            }
            Err(status) => {
                let code = format!("{:?}", status.code());
                tally.failure(&code, status.message(), begun.elapsed());
                let (upstream, message) = (self.upstream.to_string(), status.message().to_owned());
                Err(Failed { error: code, message, upstream, from: self.pod.name.to_string() })
            }
        }
    }
}

/// Answer of `/api/pingpong`.
#[derive(Debug, Serialize)]
struct Pong {
    /// The replica of ws002-pingpong that answered.
    pod: String,
    /// This pod.
    from: String,
    message: String,
    /// Our end of the connection as the replica sees it.
    peer: String,
}

/// Answer of `/api/pingpong` when the RPC failed.
#[derive(Debug, Serialize)]
struct Failed {
    /// Name of the gRPC status code.
    error: String,
    message: String,
    upstream: String,
    from: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    message: String,
}

async fn pingpong(State(api): State<Api>, Query(asked): Query<Asked>) -> Response {
    match api.ping(asked.message).await {
        Ok(pong) => {
            let served_by = pong.pod.clone();
            ([(SERVED_BY, served_by)], Json(pong)).into_response()
        }
        Err(failed) => {
            let status = match failed.error.as_str() {
                "DeadlineExceeded" => StatusCode::GATEWAY_TIMEOUT,
                "Unavailable" => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_GATEWAY,
            };
            (status, Json(failed)).into_response()
        }
    }
}

async fn stats(State(api): State<Api>) -> Json<Report> {
    let tally = api.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Json(tally.report(api.started.elapsed(), 0, api.dialer.opened()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::apps::call::{self, Outcome};
    use crate::apps::listen::{accept, bind};
    use crate::apps::load::client::CallArgs;
    use crate::apps::{grpc, pingpong};

    #[derive(Parser)]
    struct Calls {
        #[command(flatten)]
        call: CallArgs,
    }

    #[derive(Parser)]
    struct Limits {
        #[command(flatten)]
        grpc: grpc::GrpcArgs,
    }

    async fn get(address: &SocketAddr, path: &str) -> Outcome {
        let target = address.to_string();
        let args = Calls::parse_from(["call", "--kind", "http", "--target", &target, "--path", path]).call;
        call::once(args).await.unwrap()
    }

    #[tokio::test]
    async fn every_request_is_one_rpc_over_one_connection_and_failures_say_why() {
        let (_leave, shutdown) = Shutdown::pair();
        let (kill, replica_shutdown) = Shutdown::pair();
        let replica = Pod::named("ws002-0");
        let listener = bind(0).unwrap();
        let upstream = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let connections = accept(listener, &replica, replica_shutdown.clone());
        let routes = tonic::service::Routes::new(pingpong::service(&replica));
        let (routes, health) = grpc::with_standard_services(routes, &[]).await.unwrap();
        let limits = Limits::parse_from(["x"]).grpc;
        tokio::spawn(async move { grpc::serve(connections, routes, health, replica_shutdown, &limits).await });

        let api = Api::new(&Pod::named("ws001-0"), &upstream, Dialer::default(), Duration::from_secs(2)).unwrap();
        let front = bind(0).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], front.local_addr().unwrap().port()));
        tokio::spawn(api.serve(front, shutdown));

        for turn in 0..20 {
            let outcome = get(&address, &format!("/api/pingpong?message=m{turn}")).await;
            assert!(outcome.ok, "{outcome:?}");
            let body = &outcome.answer["body"];
            assert_eq!((body["pod"].as_str(), body["from"].as_str()), (Some("ws002-0"), Some("ws001-0")));
            assert_eq!(body["message"], format!("m{turn}"));
            assert_eq!(outcome.replica, "ws002-0");
        }
        let stats = get(&address, "/api/stats").await.answer["body"].clone();
        let report: Report = serde_json::from_value(stats).unwrap();
        assert_eq!((report.ok, report.failed, report.connections_opened), (20, 0, 1));
        assert_eq!(get(&address, "/healthz").await.answer["body"], "ok\n");

        kill.fire();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let failed = get(&address, "/api/pingpong").await;
        assert_eq!(failed.code, "503");
        assert!(failed.message.contains(&upstream) && failed.message.contains("refused"), "{failed:?}");
    }
}
