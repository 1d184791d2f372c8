//! The whole agent without its kernel half: the real binary, real files, real sockets on loopback.
//!
//! One client connection to an explicit listener, its requests spread over endpoints; configuration changed, broken and
//! mended while it runs; the command line asking it; SIGTERM.

#[path = "agent/mod.rs"]
mod agent;

use agent::{Agent, Client, Endpoints, slice, stays, until};
use serde_json::Value;
use std::time::{Duration, Instant};

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: { undermesh.dev/load-balancer: round-robin }
spec:
  clusterIP: 10.96.0.10
  ports:
    - { name: grpc, port: 80, targetPort: 8080 }
"#;

#[tokio::test]
async fn requests_of_one_connection_spread_evenly_and_follow_the_files() {
    let endpoints = Endpoints::start(3).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()[..2]))]).await;
    let mut client = Client::connect(agent.listener).await;

    let seen = client.calls(100).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|count| *count == 50), "round robin is exact: {seen:?}");

    // A third endpoint appears in the file: the same connection finds it within a second.
    let changed = Instant::now();
    agent.write("slice.yaml", &slice(&endpoints.addrs()));
    let third = endpoints.addrs()[2].to_string();
    let mut calls = 0;
    while client.call().await.1 != third {
        calls += 1;
        assert!(changed.elapsed() < Duration::from_secs(1), "not in force after {calls} calls");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // One is taken out: not a request fails and none goes there once the change is in force.
    agent.write("slice.yaml", &slice(&endpoints.addrs()[1..]));
    let gone = endpoints.addrs()[0].to_string();
    until("the change is in force", || {
        let services = agent.json(&["endpoints"]);
        services.as_array().is_some_and(|rows| rows.len() == 2)
    })
    .await;
    let seen = client.calls(60).await;
    assert!(!seen.contains_key(&gone) && seen.values().all(|count| *count == 30), "{seen:?}");
    agent.stop().await;
}

#[tokio::test]
async fn broken_yaml_is_named_and_hurts_nobody() {
    let endpoints = Endpoints::start(2).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))]).await;
    let mut client = Client::connect(agent.listener).await;
    assert_eq!(client.calls(10).await.len(), 2);

    let errors = |agent: &Agent| {
        let status = agent.json(&["status"]);
        status["config"]["diagnostics"]["errors"].as_u64().expect("a count")
    };
    assert_eq!(errors(&agent), 0);
    agent.write("slice.yaml", "kind: EndpointSlice\n  this: [is not: yaml\n");
    until("the error is found", || errors(&agent) > 0).await;
    let findings = agent.json(&["diagnostics"]);
    let finding = &findings[0];
    assert!(finding["file"].as_str().is_some_and(|file| file.contains("slice.yaml")), "{finding}");
    assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding}");
    stays(Duration::from_millis(300), async || client.calls(10).await.len() == 2).await;

    agent.write("slice.yaml", &slice(&endpoints.addrs()));
    until("the error is gone", || errors(&agent) == 0).await;
    assert_eq!(client.calls(10).await.len(), 2);
    agent.stop().await;
}

#[tokio::test]
async fn an_unknown_service_answers_unavailable_until_it_is_configured() {
    let endpoints = Endpoints::start(1).await;
    let agent = Agent::start(&[("other.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n")]).await;
    assert_eq!(agent.json(&["status"])["listeners"][0]["known"], false);
    let warned = agent.json(&["diagnostics"]).to_string();
    assert!(warned.contains("shop/web:80") && warned.contains("--listen"), "{warned}");

    agent.write("slice.yaml", &slice(&endpoints.addrs()));
    agent.write("service.yaml", SERVICE);
    until("the service is known", || agent.json(&["status"])["listeners"][0]["known"] == true).await;
    let mut client = Client::connect(agent.listener).await;
    assert_eq!(client.call().await.0, 200);
    agent.stop().await;
}

#[tokio::test]
async fn the_command_line_asks_and_sets() {
    let endpoints = Endpoints::start(2).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))]).await;
    let mut client = Client::connect(agent.listener).await;
    client.calls(20).await;

    let status = agent.json(&["status"]);
    assert_eq!(status["node"], "test-node");
    assert_eq!((&status["kernel"]["tier"], &status["draining"]), (&Value::from("none"), &Value::from(false)));
    assert!(status["config"]["generation"].as_u64() >= Some(1), "{status}");
    assert_eq!(status["connections"]["open"], 1, "{status}");

    let list = agent.json(&["connections"]);
    let open = &list["connections"][0];
    assert_eq!((&list["open"], &open["destination"]), (&1.into(), &"shop/web:80".into()), "{list}");
    assert_eq!((&open["protocol"], &open["requests"], &open["streams"]), (&"http2".into(), &20.into(), &0.into()));
    assert!(open["received_bytes"].as_u64() > Some(100) && open["sent_bytes"].as_u64() > Some(100), "{list}");
    assert!(agent.cli(&["connections"]).stdout.contains("shop/web:80"));

    let rows = agent.json(&["endpoints", "shop/web"]);
    let requests: Vec<u64> = rows.as_array().expect("rows").iter().filter_map(|row| row["requests"].as_u64()).collect();
    assert_eq!(requests, [10, 10], "{rows}");

    let services = agent.json(&["services"]);
    assert_eq!(
        (&services[0]["name"], &services[0]["ports"][0]["ready"]),
        (&"shop/web".into(), &2.into()),
        "{services}"
    );
    let table = agent.cli(&["services"]);
    assert!(table.stdout.contains("shop/web") && table.stdout.contains("10.96.0.10"), "{}", table.stdout);
    assert!(!table.stdout.contains('\u{1b}'), "no colour into a pipe");

    assert_eq!(agent.cli(&["log-level", "debug"]).stdout.trim(), "debug");
    assert_eq!(agent.json(&["log-level"])["filter"], "debug");
    let refused = agent.cli(&["log-level", "mesh_agent=loud"]);
    assert_eq!((refused.code, refused.stderr.contains("loud")), (Some(1), true), "{}", refused.stderr);
    let refused = agent.cli(&["kernel", "--sk-msg", "on"]);
    assert_eq!((refused.code, refused.stderr.contains("--no-kernel")), (Some(1), true), "{}", refused.stderr);
    let yaml = agent.cli(&["version", "-o", "yaml"]).stdout;
    assert!(yaml.contains("agent: 0."), "{yaml}");
    assert_eq!(agent.cli(&["endpoints", "shop/none"]).code, Some(1));
    assert_eq!(agent.cli(&["no-such-command"]).code, Some(2));

    let metrics = agent.metrics().await;
    for needle in ["mesh_config_generation", "mesh_workers 2", "istio_requests_total"] {
        assert!(metrics.contains(needle), "{needle} in\n{metrics}");
    }
    let place = agent.place();
    agent.stop().await;
    let gone = agent::cli(&place, &["status"]);
    assert_eq!((gone.code, gone.stderr.contains("cannot reach the agent")), (Some(3), true), "{}", gone.stderr);
}

#[tokio::test]
async fn sigterm_lets_open_requests_finish_and_takes_no_new_ones() {
    let endpoints = Endpoints::slow(1, Duration::from_millis(600)).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))]).await;
    let mut client = Client::connect(agent.listener).await;
    let open = client.begin().await;
    // It has reached the endpoint.
    until("the endpoint has the request", || endpoints.received() == 1).await;
    agent.signal("TERM");
    until("the listener is closed", || std::net::TcpStream::connect(agent.listener).is_err()).await;
    assert_eq!(open.await.expect("answered").0, 200, "the open request is answered");
    assert!(agent.exited().await.success());
}

#[tokio::test]
async fn a_second_agent_is_refused_and_a_killed_one_replaced() {
    let agent = Agent::start(&[("service.yaml", SERVICE)]).await;
    let second = agent.run_again();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another agent answers"), "{}", second.stderr);
    let begun = Instant::now();
    let agent = agent.kill_and_restart().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    agent.stop().await;
}

#[tokio::test]
async fn a_successor_takes_over_while_the_elder_drains() {
    let endpoints = Endpoints::slow(1, Duration::from_secs(3)).await;
    let files = [("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))];
    let agent = Agent::start_with(&files, &["--handover"]).await;
    let mut client = Client::connect(agent.listener).await;
    let open = client.begin().await;
    until("the endpoint has the request", || endpoints.received() == 1).await;
    agent.signal("TERM");
    until("the socket is given up", || !agent.place().join("agent.sock").exists()).await;
    let (mut elder, agent) = agent.succeed().await;
    assert!(elder.try_wait().expect("status").is_none(), "the elder still has a request");
    assert_eq!(open.await.expect("answered").0, 200);
    assert!(elder.wait().await.expect("status").success());
    // The elder's end has not taken the successor's socket with it.
    assert_eq!(agent.json(&["status"])["draining"], false);
    agent.stop().await;
}

/// Every request has its line when the agent has ended, whatever logrotate did meanwhile.
#[tokio::test]
async fn the_access_log_is_complete_after_a_stop() {
    let endpoints = Endpoints::start(1).await;
    let dir = tempfile::tempdir().expect("folder");
    let (file, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let mesh = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\n\
         data: {{ mesh: 'accessLogFile: {}' }}\n",
        file.display()
    );
    let files = [("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs())), ("mesh.yaml", &mesh)];
    let agent = Agent::start(&files).await;
    let mut client = Client::connect(agent.listener).await;
    client.calls(30).await;
    std::fs::rename(&file, &moved).expect("the file is there from the start");
    agent.signal("USR1");
    until("the file is opened anew", || file.exists()).await;
    client.calls(25).await;
    drop(client);
    assert!(agent.metrics().await.contains("mesh_access_log_dropped_total 0"));
    agent.stop().await;
    let lines = |file| std::fs::read_to_string(file).expect("readable").lines().map(str::to_owned).collect::<Vec<_>>();
    let all = [lines(&moved), lines(&file)].concat();
    assert_eq!(all.len(), 55, "{all:?}");
    assert!(all.iter().all(|line| line.contains("\"GET / HTTP/2\" 200 - via_upstream - \"-\" 0 ")), "{all:?}");
}

#[tokio::test]
async fn a_tap_shows_what_passes_and_ends_by_itself_or_by_the_user() {
    let endpoints = Endpoints::start(2).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))]).await;
    let mut client = Client::connect(agent.listener).await;

    let tap = agent.spawn(&["tap", "-o", "json", "--to", "shop/web", "--max", "20"]).await;
    client.calls(50).await;
    let (code, out, told) = tap.finish().await;
    assert_eq!(code, Some(0), "{told}");
    let requests: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(requests.len(), 20);
    assert!(requests.iter().all(|request| request["code"] == 200 && request["service"] == "shop/web"), "{out}");
    assert!(told.contains("20 requests in "), "{told}");

    let tap = agent.spawn(&["tap", "--code", "200", "--path", "/"]).await;
    client.calls(30).await;
    let taps = async |agent: &Agent| agent.metrics().await.contains("\nmesh_taps 1\n");
    assert!(taps(&agent).await);
    let tap = tap.shown(30).await;
    tap.interrupt();
    let (code, out, told) = tap.finish().await;
    assert_eq!((code, out.lines().count()), (Some(0), 30), "{told}");
    assert!(out.lines().all(|line| line.contains("GET web.shop/  200  ")), "{out}");
    assert!(told.contains("30 requests in ") && told.contains("30 × 200"), "{told}");
    let begun = Instant::now();
    while taps(&agent).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "the tap is still open");
    }

    let wrong = agent.cli(&["tap", "--code", "9xx"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("`9xx` is no code"), "{}", wrong.stderr);
    agent.stop().await;
}

#[tokio::test]
async fn top_and_graph_count_what_the_client_did() {
    let endpoints = Endpoints::start(2).await;
    let agent = Agent::start(&[("service.yaml", SERVICE), ("slice.yaml", &slice(&endpoints.addrs()))]).await;
    let mut client = Client::connect(agent.listener).await;
    client.calls(37).await;
    let requests = |by: &str| agent.json(&["top", by, "--total"])["rows"][0]["requests"].as_u64().unwrap_or(0);
    // The last record ends a moment after its answer.
    until("everything is counted", || requests("services") >= 37).await;
    assert_eq!(requests("services"), 37);
    let top = agent.json(&["top", "routes", "--total"]);
    let routes = top["rows"].as_array().expect("rows");
    assert_eq!((routes.len(), &routes[0]["requests"], &routes[0]["of"]), (1, &37.into(), &"shop/web".into()), "{top}");
    assert_eq!((&routes[0]["success"], &top["seconds"]), (&1.0.into(), &Value::Null), "{top}");
    let graph = agent.json(&["graph"]);
    let call = &graph[0];
    assert_eq!((&call["requests"], &call["service"], &call["failures"]), (&37.into(), &"shop/web".into(), &0.into()));
    let dot = agent.cli(&["graph", "-o", "dot"]);
    assert!(dot.stdout.starts_with("digraph mesh {") && dot.stdout.contains("37 × http, p95 "), "{}", dot.stdout);
    assert_eq!(agent.cli(&["status", "-o", "dot"]).code, Some(2));

    // Rates: what is called while it looks, and nothing of before.
    let looking = agent.place();
    let top = tokio::task::spawn_blocking(move || {
        agent::cli(&looking, &["top", "services", "--once", "--interval", "2s", "-o", "json"])
    });
    let mut calls = 0;
    while !top.is_finished() {
        client.call().await;
        calls += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let top: Value = serde_json::from_str(&top.await.expect("it ends").stdout).expect("JSON");
    let (row, seconds) = (&top["rows"][0], top["seconds"].as_f64().expect("a time"));
    let requests = row["requests"].as_u64().expect("a count");
    assert!(requests > 0 && requests <= calls, "{calls} calls: {top}");
    assert!((row["rate"].as_f64().expect("a rate") - requests as f64 / seconds).abs() < 1e-6, "{top}");
    agent.stop().await;
}
