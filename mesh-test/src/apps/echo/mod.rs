//! The stand-in for any sample image: each port of a pod answers in the protocol that its name declares.

mod detect;
mod http;
mod service;
mod tcp;

use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use self::service::EchoService;
use super::event::{Event, emit};
use super::grpc::{self, GrpcArgs};
use super::listen::{Shutdown, accept, announce};
use super::pingpong;
use super::pod::{Pod, PodArgs};
use super::port::{Port, Protocol};

/// Arguments of `mesh-app echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// A port, NAME:PROTOCOL:PORT with http, grpc, tcp, greet or detect; repeat for more.
    #[arg(long = "port", required = true)]
    ports: Vec<Port>,
    /// First word of a TCP port's answers, as the second argument of Istio's tcp-echo; the pod's name if left out.
    #[arg(long)]
    prefix: Option<String>,
    #[command(flatten)]
    grpc: GrpcArgs,
    #[command(flatten)]
    pod: PodArgs,
}

/// Serves every port until SIGTERM or SIGINT.
///
/// # Errors
/// A port is taken: the app does not start with half its ports.
pub async fn run(args: EchoArgs) -> anyhow::Result<()> {
    let pod = Pod::from(args.pod);
    let shutdown = Shutdown::on_signals(&pod)?;
    let listeners: Vec<(Port, TcpListener)> = args
        .ports
        .into_iter()
        .map(|port| announce(&pod, &port.name, &port.protocol.to_string(), port.number).map(|bound| (port, bound)))
        .collect::<Result<_, _>>()?;
    serve(listeners, &pod, args.prefix.as_deref(), &args.grpc, shutdown).await?;
    emit(&Event::Stopped { pod: pod.name.to_string(), calls: pod.calls() });
    Ok(())
}

/// Serves `listeners` until `shutdown`, then waits for what is in flight, at most `--drain-ms`.
///
/// # Errors
/// A gRPC server cannot be put together.
pub async fn serve(
    listeners: Vec<(Port, TcpListener)>,
    pod: &Pod,
    prefix: Option<&str>,
    grpc_args: &GrpcArgs,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let prefix = prefix.unwrap_or(&pod.name).to_owned();
    let mut ports = JoinSet::new();
    for (port, listener) in listeners {
        let connections = accept(listener, pod, shutdown.clone());
        let (routes, health) = grpc_routes(pod).await?;
        let (pod, prefix, grpc_args) = (pod.clone(), prefix.clone(), grpc_args.clone());
        let (shutdown, drain) = (shutdown.clone(), grpc_args.drain());
        match port.protocol {
            Protocol::Grpc => ports.spawn(async move {
                if let Err(error) = grpc::serve(connections, routes, health, shutdown, &grpc_args).await {
                    let (pod, what) = (pod.name.to_string(), format!("port {port}"));
                    emit(&Event::Failed { pod, what, error: error.to_string() });
                }
            }),
            Protocol::Http => ports.spawn(async move {
                http::Server::new(&pod, routes).serve(connections, drain).await;
            }),
            Protocol::Tcp | Protocol::Greet => ports.spawn(async move {
                let greets = port.protocol == Protocol::Greet;
                tcp::Server::new(&pod, &prefix, greets).serve(connections, drain).await;
            }),
            Protocol::Detect => ports.spawn(async move {
                detect::serve(
                    connections,
                    http::Server::new(&pod, routes),
                    tcp::Server::new(&pod, &prefix, false),
                    drain,
                )
                .await;
            }),
        };
    }
    while ports.join_next().await.is_some() {}
    Ok(())
}

async fn grpc_routes(pod: &Pod) -> anyhow::Result<(Routes, HealthReporter)> {
    let routes = Routes::new(pingpong::service(pod)).add_service(EchoService::new(pod));
    grpc::with_standard_services(routes, &["pingpong.v1.PingPong", "proto.EchoTestService"]).await
}

/// Waits until every task of `tasks` is done, at most `limit`; what is left then is cut off.
async fn finish(mut tasks: JoinSet<()>, limit: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limit, all).await;
}

#[cfg(test)]
mod tests;
