//! What the apps' gRPC servers share: health, reflection, the caller's authority, a graceful end within a limit.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::Request;
use clap::Args;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::listen::{Connection, Shutdown};
use super::proto::DESCRIPTORS;

/// Limits of a gRPC server, all off by default.
#[derive(Debug, Clone, Default, Args)]
pub struct GrpcArgs {
    /// SETTINGS_MAX_CONCURRENT_STREAMS to announce.
    #[arg(long)]
    max_streams: Option<u32>,
    /// Milliseconds after which a connection gets GOAWAY.
    #[arg(long)]
    max_age_ms: Option<u64>,
    /// Milliseconds to finish calls in flight after SIGTERM.
    #[arg(long, default_value_t = 10_000)]
    drain_ms: u64,
}

impl GrpcArgs {
    /// How long calls in flight may take after a shutdown.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// The `:authority` of a request, in the extensions of every call served by [`serve`].
#[derive(Debug, Clone)]
pub struct Authority(pub String);

/// Adds `grpc.health.v1.Health` and both versions of reflection to `routes`; SERVING from the start.
pub async fn with_standard_services(routes: Routes, services: &[&str]) -> anyhow::Result<(Routes, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in services {
        reporter.set_service_status(*service, tonic_health::ServingStatus::Serving).await;
    }
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = routes.add_service(health).add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    Ok((remember_authority(routes), reporter))
}

/// Serves until `shutdown`; then health says NOT_SERVING, connections get GOAWAY and calls in flight have `drain`.
///
/// # Errors
/// tonic's own; a broken connection is none.
pub async fn serve(
    connections: mpsc::Receiver<Connection>,
    routes: Routes,
    health: HealthReporter,
    shutdown: Shutdown,
    args: &GrpcArgs,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .max_concurrent_streams(args.max_streams)
        // Large messages must not trickle through the 64 KiB default window.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    if let Some(age) = args.max_age_ms {
        server = server.max_connection_age(Duration::from_millis(age));
    }
    let incoming = ReceiverStream::new(connections).map(Ok::<_, Infallible>);
    let left = shutdown.clone();
    let announced = async move {
        shutdown.wait().await;
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    };
    let serving = server.add_routes(routes).serve_with_incoming_shutdown(incoming, announced);
    tokio::pin!(serving);
    tokio::select! {
        done = &mut serving => return Ok(done?),
        () = left.wait() => {}
    }
    // A stream that never ends must not keep the pod for ever; what is left is cut off.
    match tokio::time::timeout(args.drain(), serving).await {
        Ok(done) => Ok(done?),
        Err(_) => Ok(()),
    }
}

fn remember_authority(routes: Routes) -> Routes {
    let remember = axum::middleware::map_request(|mut request: Request| async move {
        if let Some(authority) = request.uri().authority().map(|authority| authority.as_str().to_owned()) {
            request.extensions_mut().insert(Authority(authority));
        }
        request
    });
    routes.into_axum_router().layer(remember).into()
}
