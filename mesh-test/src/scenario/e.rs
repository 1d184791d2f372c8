//! Scenario E: traces in a real Zipkin and in OpenTelemetry's own receiver; access log lines as Istio writes them.

use super::access_log::AccessLog;
use super::check::Checks;
use super::stage::{Stage, peer};
use super::{Scenario, Step};
use crate::lab::{Pod, parse_lines};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NS: &str = "default";
const BACKENDS: &str = "observability";
const PAGE: &str = "http://productpage:9080/productpage";
const DETAILS: &str = "http://details:9080/details/0";
/// Spans are gathered for half a second, and a batch may be sent again.
const ARRIVED_WITHIN: Duration = Duration::from_secs(15);
/// The span under which the client's own code asks.
const CALLER: &str = "00000000000000a1";
/// From ratings, span by span, to whoever asked for the page.
const CHAIN: &str = "ratings.default SERVER < reviews.default CLIENT < reviews.default SERVER < \
                     productpage.default CLIENT < productpage.default SERVER < client.default CLIENT < 00000000000000a1";

pub(super) const TRACES: Scenario = Scenario {
    id: "E",
    title: "Tracing and logs: Zipkin, OpenTelemetry, Istio's lines",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "E1",
            title: "Every request traced: who calls whom",
            lesson: "A Telemetry object sets the rate; the apps only hand on the headers they got. Zipkin draws its graph from \
                     the spans that the agent made for both sides of each call.",
            waits_for: None,
            act: everything,
        },
        Step {
            id: "E2",
            title: "By default 1 % is traced",
            lesson: "Whether a request is traced is decided once, where it enters the mesh, and travels in x-request-id. \
                     Bounds are mean ± 3 σ of a binomial draw.",
            waits_for: None,
            act: sampled,
        },
        Step {
            id: "E3",
            title: "A trace that the client began goes on, in W3C's headers and in B3's",
            lesson: "The chain productpage, reviews, ratings hangs below the client's own span, whatever headers name it.",
            waits_for: None,
            act: continued,
        },
        Step {
            id: "E4",
            title: "The same in OpenTelemetry, by gRPC and by HTTP",
            lesson: "Another provider in the MeshConfig: spans go to any OTLP receiver, such as the collector's.",
            waits_for: None,
            act: otlp,
        },
        Step {
            id: "E5",
            title: "The access log's JSON keys",
            lesson: "accessLogFile and accessLogEncoding of the MeshConfig, Istio's keys: what reads Istio's \
                     logs reads these.",
            waits_for: None,
            act: json_keys,
        },
    ],
};

fn set_up(stage: &Stage) -> Result<()> {
    stage.sample("bookinfo/platform/kube/bookinfo.yaml")?;
    // Only reviews v2 and v3 ask ratings.
    stage.sample("bookinfo/networking/destination-rule-all.yaml")?;
    stage.sample("bookinfo/networking/virtual-service-reviews-v3.yaml")?;
    stage.lab.pod("client").namespace(NS).label("app", "client").start()?;
    stage.enrol(NS)?;
    let backend = |name: &str| stage.lab.pod(name).namespace(BACKENDS).label("app", name);
    let receiver = backend("otel").port("grpc", 4317).port("http", 4318);
    receiver.program(peer("otlp-receiver", "trace")?, &["0.0.0.0:4317", "0.0.0.0:4318"]).start()?;
    // A JVM takes its time: it is asked when it is needed.
    backend("zipkin").unprobed_port("http", 9411).program(peer("zipkin", "trace")?, &["--quiet"]).start()?;
    stage.ours("tracing-backends.yaml")?;
    let zipkin = Zipkin::of(stage)?;
    until(Duration::from_secs(120), || Ok(zipkin.get("/health").is_ok_and(|health| health["status"] == "UP")))
        .context("Zipkin does not come up")
}

fn everything(stage: &Stage, checks: &mut Checks) -> Result<()> {
    stage.ours("tracing-zipkin.yaml")?;
    stage.ours("tracing-all.yaml")?;
    let zipkin = Zipkin::of(stage)?;
    let before = zipkin.calls()?;
    let pages = stage.fetch(&stage.client(NS)?, PAGE, &["--count", "20"])?;
    checks.equal("pages", &20, &pages.iter().filter(|page| page.status == 200).count());
    for (caller, callee) in
        [("client", "productpage"), ("productpage", "details"), ("productpage", "reviews"), ("reviews", "ratings")]
    {
        let count = |calls: &Calls| calls.between(caller, callee) - before.between(caller, callee);
        let after = zipkin.calls_when(|calls| count(calls) >= 20)?;
        checks.equal(&format!("Zipkin: calls from {caller} to {callee}"), &20, &count(&after));
    }
    Ok(())
}

fn sampled(stage: &Stage, checks: &mut Checks) -> Result<()> {
    stage.ours("tracing-zipkin.yaml")?;
    let (client, zipkin) = (stage.client(NS)?, Zipkin::of(stage)?);
    checks.shares("requests to details", 2000, &[("traced", 0.01), ("not traced", 0.99)], || {
        let sent = || -> Result<u64> { Ok(stage.metrics()?.total("mesh_trace_spans_total", &[("outcome", "sent")])) };
        let (before, spans) = (zipkin.calls()?.between("client", "details"), sent()?);
        stage.fetch(&client, DETAILS, &["--count", "2000", "--concurrency", "8"])?;
        // Nothing says that no more will come, but that for two gatherings nothing came.
        let mut last = spans;
        until(ARRIVED_WITHIN, || {
            std::thread::sleep(Duration::from_millis(1200));
            Ok(std::mem::replace(&mut last, sent()?) == last)
        })?;
        let traced = zipkin.calls()?.between("client", "details") - before;
        Ok([("traced".to_owned(), traced), ("not traced".to_owned(), 2000 - traced)].into())
    })
}

fn continued(stage: &Stage, checks: &mut Checks) -> Result<()> {
    stage.ours("tracing-zipkin.yaml")?;
    let (client, zipkin) = (stage.client(NS)?, Zipkin::of(stage)?);
    for (name, trace, headers) in contexts("3") {
        ask_for_page(stage, &client, &headers, checks)?;
        let spans = when_chained(|| zipkin.trace(&trace))?;
        checks.equal(&format!("Zipkin, {name}"), &CHAIN.to_owned(), &chain(&spans));
    }
    Ok(())
}

fn otlp(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    for (way, file) in [("gRPC", "tracing-otlp.yaml"), ("HTTP", "tracing-otlp-http.yaml")] {
        stage.ours(file)?;
        for (name, trace, headers) in contexts(if way == "gRPC" { "4" } else { "5" }) {
            ask_for_page(stage, &client, &headers, checks)?;
            let spans = when_chained(|| received(stage, &trace))?;
            checks.equal(&format!("OTLP over {way}, {name}"), &CHAIN.to_owned(), &chain(&spans));
        }
        stage.reset()?;
    }
    Ok(())
}

fn json_keys(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let mut log = AccessLog::start(stage)?;
    stage.get(&stage.client(NS)?, DETAILS, &["--header", "user-agent=scenario-e"])?;
    let lines = log.next(1, "outbound|9080||details.default.svc.cluster.local")?;
    let line = lines.iter().find(|line| line["user_agent"] == "scenario-e").context("no line")?;
    let mut keys: Vec<&str> = line.as_object().context("no object")?.keys().map(String::as_str).collect();
    let mut istios = vec![
        "start_time",
        "route_name",
        "method",
        "path",
        "protocol",
        "response_code",
        "response_flags",
        "response_code_details",
        "connection_termination_details",
        "bytes_received",
        "bytes_sent",
        "duration",
        "upstream_service_time",
        "x_forwarded_for",
        "user_agent",
        "request_id",
        "authority",
        "upstream_host",
        "upstream_cluster",
        "upstream_local_address",
        "downstream_local_address",
        "downstream_remote_address",
        "requested_server_name",
        "upstream_transport_failure_reason",
    ];
    keys.sort_unstable();
    istios.sort_unstable();
    checks.equal("keys", &istios.join(" "), &keys.join(" "));
    let of = |key: &str| line[key].to_string();
    let told = ["method", "path", "protocol", "response_code", "response_flags", "authority"].map(of).join(" ");
    let expected = r#""GET" "/details/0" "HTTP/1.1" 200 "-" "details:9080""#;
    checks.equal("what they say", &expected.to_owned(), &told);
    Ok(())
}

/// Name, trace id, and the headers by which a client says that it traces.
fn contexts(number: &str) -> [(&'static str, String, Vec<String>); 2] {
    let trace = |kind: &str| format!("{number:0>16}{kind:0>16}");
    let (w3c, b3) = (trace("a1"), trace("b3"));
    let multi = [format!("x-b3-traceid={b3}"), format!("x-b3-spanid={CALLER}"), "x-b3-sampled=1".to_owned()];
    [("W3C", w3c.clone(), vec![format!("traceparent=00-{w3c}-{CALLER}-01")]), ("B3", b3, multi.to_vec())]
}

fn ask_for_page(stage: &Stage, client: &Pod, headers: &[String], checks: &mut Checks) -> Result<()> {
    let args: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
    checks.equal("GET /productpage", &200, &stage.get(client, PAGE, &args)?.status);
    Ok(())
}

/// A span, whoever shows it.
#[derive(Debug)]
struct Span {
    id: String,
    parent: String,
    kind: String,
    service: String,
}

/// From the server's span of ratings upwards, until nobody is there.
fn chain(spans: &[Span]) -> String {
    let text = |span: &Span| format!("{} {}", span.service, span.kind);
    let mut at = spans.iter().find(|span| span.service == "ratings.default" && span.kind == "SERVER");
    let mut chain = Vec::new();
    // At most as long as there are spans: a circle is none.
    while let Some(span) = at.filter(|_| chain.len() <= spans.len()) {
        chain.push(text(span));
        at = spans.iter().find(|other| other.id == span.parent);
        if at.is_none() {
            chain.push(span.parent.clone());
        }
    }
    chain.join(" < ")
}

/// The spans once they are a whole chain, or what there is when the time is over.
fn when_chained(mut spans: impl FnMut() -> Result<Vec<Span>>) -> Result<Vec<Span>> {
    let mut last = Vec::new();
    // What came in time is judged by who asked.
    let _ = until(ARRIVED_WITHIN, || {
        last = spans().unwrap_or_default();
        Ok(chain(&last).ends_with(CALLER))
    });
    Ok(last)
}

fn until(limit: Duration, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !so()? {
        anyhow::ensure!(Instant::now() < deadline, "not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Spans of a trace among all that the receiver printed.
fn received(stage: &Stage, trace: &str) -> Result<Vec<Span>> {
    let pod = backend(stage, "otel")?;
    let mut spans = Vec::new();
    for batch in parse_lines::<Value>(&pod.output()) {
        for resource in batch["resourceSpans"].as_array().into_iter().flatten() {
            let attributes = resource["resource"]["attributes"].as_array().into_iter().flatten();
            let mut names = attributes.filter(|pair| pair["key"] == "service.name");
            let service = names.next().map(|pair| text(&pair["value"]["stringValue"])).unwrap_or_default();
            let scopes = resource["scopeSpans"].as_array().into_iter().flatten();
            let all = scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten());
            spans.extend(all.filter(|span| span["traceId"] == trace).map(|span| Span {
                id: text(&span["spanId"]),
                parent: text(&span["parentSpanId"]),
                // OTLP: SPAN_KIND_SERVER = 2, SPAN_KIND_CLIENT = 3.
                kind: match span["kind"].as_u64() {
                    Some(2) => "SERVER".to_owned(),
                    Some(3) => "CLIENT".to_owned(),
                    _ => span["kind"].to_string(),
                },
                service: service.clone(),
            }));
        }
    }
    Ok(spans)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn backend(stage: &Stage, name: &str) -> Result<Pod> {
    let mut pods = stage.lab.all_pods().into_iter();
    pods.find(|pod| pod.namespace() == BACKENDS && pod.name() == name).with_context(|| format!("no pod {name}"))
}

/// A Zipkin, asked as its own page asks it.
struct Zipkin<'a> {
    stage: &'a Stage,
    outsider: Pod,
    url: String,
}

/// Calls between services, as Zipkin derives them from spans.
struct Calls(Vec<Link>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    parent: String,
    child: String,
    call_count: u64,
}

impl Calls {
    fn between(&self, caller: &str, callee: &str) -> u64 {
        let is = |name: &str, of: &str| name.strip_suffix(".default") == Some(of);
        self.0
            .iter()
            .filter(|link| is(&link.parent, caller) && is(&link.child, callee))
            .map(|link| link.call_count)
            .sum()
    }
}

impl<'a> Zipkin<'a> {
    fn of(stage: &'a Stage) -> Result<Self> {
        let url = format!("http://{}:9411", backend(stage, "zipkin")?.ips().v4);
        Ok(Self { stage, outsider: stage.outsider()?, url })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let reply = self.stage.get(&self.outsider, &format!("{}{path}", self.url), &[])?;
        anyhow::ensure!(reply.status == 200, "{path}: {reply:?}");
        serde_json::from_str(&reply.body).with_context(|| format!("{path}: {}", reply.body))
    }

    /// The last hour's.
    fn calls(&self) -> Result<Calls> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let links = self.get(&format!("/api/v2/dependencies?endTs={now}&lookback=3600000"))?;
        Ok(Calls(serde_json::from_value(links)?))
    }

    /// The same once `so` holds of them, or when the time is over.
    fn calls_when(&self, so: impl Fn(&Calls) -> bool) -> Result<Calls> {
        let mut calls = self.calls()?;
        let _ = until(ARRIVED_WITHIN, || {
            calls = self.calls()?;
            Ok(so(&calls))
        });
        Ok(calls)
    }

    fn trace(&self, id: &str) -> Result<Vec<Span>> {
        let spans = self.get(&format!("/api/v2/trace/{id}"))?;
        let spans = spans.as_array().context("no list")?.iter();
        Ok(spans
            .map(|span| Span {
                id: text(&span["id"]),
                parent: text(&span["parentId"]),
                kind: text(&span["kind"]),
                service: text(&span["localEndpoint"]["serviceName"]),
            })
            .collect())
    }
}
