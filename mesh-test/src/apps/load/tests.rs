//! Loads against servers on loopback: what is counted, and over how many connections.

use std::net::SocketAddr;

use clap::Parser;

use super::*;
use crate::apps::listen::{Trigger, accept, bind};
use crate::apps::{grpc as server, pingpong};

#[derive(Parser)]
struct Loads {
    #[command(flatten)]
    load: LoadArgs,
}

async fn load(target: &str, options: &str) -> (Report, Vec<Report>) {
    let arguments = ["load", "--target", target].into_iter().chain(options.split_whitespace());
    let args = Loads::parse_from(arguments).load;
    let (_trigger, shutdown) = Shutdown::pair();
    let mut intervals = Vec::new();
    let total = drive(&args, shutdown, |report| intervals.push(report)).await.unwrap();
    (total, intervals)
}

#[derive(Parser)]
struct Limits {
    #[command(flatten)]
    grpc: server::GrpcArgs,
}

async fn replica(name: &str, port: u16, limits: &str) -> (SocketAddr, Trigger) {
    let pod = Pod::named(name);
    let listener = bind(port).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let (trigger, shutdown) = Shutdown::pair();
    let connections = accept(listener, &pod, shutdown.clone());
    let routes = tonic::service::Routes::new(pingpong::service(&pod));
    let (routes, health) = server::with_standard_services(routes, &[]).await.unwrap();
    let args = Limits::parse_from(["x"].into_iter().chain(limits.split_whitespace())).grpc;
    tokio::spawn(async move { server::serve(connections, routes, health, shutdown, &args).await });
    (address, trigger)
}

#[tokio::test]
async fn a_closed_loop_makes_just_so_many_calls_over_one_connection() {
    let (address, _trigger) = replica("a", 0, "").await;
    let (total, intervals) = load(&address.to_string(), "--count 500 --concurrency 20 --interval-ms 10").await;
    assert_eq!((total.calls, total.ok, total.connections_opened), (500, 500, 1), "{total:?}");
    assert_eq!(total.replicas["a"], 500);
    assert!(total.p50_us > 0 && total.p50_us <= total.p99_us && total.p99_us <= total.max_us, "{total:?}");
    let sum: u64 = intervals.iter().map(|interval| interval.calls).sum();
    assert!(sum <= 500 && intervals.iter().all(|interval| interval.in_flight <= 20), "{intervals:?}");
}

#[tokio::test]
async fn more_connections_are_all_used() {
    let (address, _trigger) = replica("a", 0, "").await;
    let (total, _) = load(&address.to_string(), "--count 90 --concurrency 3 --connections 3").await;
    assert_eq!((total.ok, total.connections_opened), (90, 3));
    let (total, _) = load(&address.to_string(), "--count 7 --reconnect").await;
    assert_eq!((total.ok, total.connections_opened), (7, 7));
    let (total, _) = load(&address.to_string(), "--count 3 --renew-ms 0").await;
    assert_eq!((total.ok, total.connections_opened), (3, 3));
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate_though_answers_are_slow() {
    let (address, _trigger) = replica("a", 0, "").await;
    let (total, _) = load(&address.to_string(), "--rate 200 --duration 1 --delay-ms 300").await;
    // 200 in a second, had they waited for one another it were 3.
    assert!((190..=202).contains(&total.ok), "{total:?}");
    assert_eq!(total.failed, 0, "{total:?}");
    assert!(total.p50_us >= 300_000, "{total:?}");
}

#[tokio::test]
async fn failures_are_counted_by_code_with_what_they_say() {
    let (address, _trigger) = replica("a", 0, "").await;
    let (total, _) = load(&address.to_string(), "--count 5 --fail-code 8").await;
    assert_eq!((total.ok, total.failed, total.errors["ResourceExhausted"].count), (0, 5, 5));
    let (total, _) = load(&address.to_string(), "--count 2 --delay-ms 2000 --timeout-ms 100").await;
    let codes: Vec<&String> = total.errors.keys().collect();
    assert_eq!(total.failed, 2);
    assert!(codes.iter().all(|code| ["Cancelled", "DeadlineExceeded"].contains(&code.as_str())), "{codes:?}");
    let (total, _) = load("127.0.0.1:1", "--count 1").await;
    let error = &total.errors["Unavailable"];
    assert!(error.message.contains("127.0.0.1:1") && error.message.contains("refused"), "{error:?}");
    let (total, _) = load("127.0.0.1:1", "--count 3 --kind tcp").await;
    assert_eq!(total.errors["Connect"].count, 3);
}

#[tokio::test]
async fn the_connection_comes_back_after_the_replica_was_replaced() {
    let (address, trigger) = replica("a", 0, "").await;
    let client = Client::new(Loads::parse_from(["l", "--target", &address.to_string()]).load.call, 1).unwrap();
    assert_eq!(client.call().await.unwrap().replica, "a");
    trigger.fire();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, _second) = replica("b", address.port(), "").await;
    assert_eq!(client.call().await.unwrap().replica, "b");
    assert_eq!(client.opened(), 2);
}

#[tokio::test]
async fn an_aged_connection_is_replaced_without_a_failed_call() {
    let (address, _trigger) = replica("a", 0, "--max-age-ms 200").await;
    let (total, _) = load(&address.to_string(), "--rate 100 --duration 1").await;
    assert_eq!(total.failed, 0, "{total:?}");
    assert!(total.connections_opened >= 3, "{total:?}");
}
