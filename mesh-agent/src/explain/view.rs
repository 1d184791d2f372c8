//! What `explain` answers, as plain values.
//!
//! Invariant (as of `admin::view`): field names are stable, durations say their unit, nothing internal is named.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Why a request goes where it goes, in the order in which the data path decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub request: Request,
    pub source: Source,
    pub lookup: Lookup,
    /// Rules that were tried before the one that holds, in their order.
    pub near_misses: Vec<NearMiss>,
    /// The rule that takes the request; none where nothing does.
    pub rule: Option<Rule>,
    /// What happens to the request on its way, in this order.
    pub filters: Vec<Filter>,
    pub timeout_ms: Option<u64>,
    pub retry: Option<Retry>,
    pub backends: Vec<Backend>,
    pub verdict: Verdict,
    pub notes: Vec<String>,
}

/// The request as the agent reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    pub authority: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// `http`, `tls` or `tcp`: what the client speaks.
    pub protocol: String,
    /// The name in a TLS client's ClientHello.
    pub sni: Option<String>,
    /// Where the client connects to; an address of RFC 5737's TEST-NET-1 where only the world's DNS knows it.
    pub address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `namespace/pod`
    pub workload: Option<String>,
    /// `Deployment/productpage-v1`
    pub owner: Option<String>,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// `enrolled`, `elsewhere` (by another node's agent), `outside`, `assumed` (no pod was named).
    pub mesh: String,
    /// Why it is outside.
    pub reason: String,
    /// `namespace/name` of the Gateway that answers.
    pub gateway: Option<String>,
    /// The Sidecar object that limits what the client sees.
    pub sidecar: Option<Reference>,
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `VirtualService default/reviews`; empty for what the agent made itself.
    pub object: String,
    /// `spec.http[0].match[0]`
    pub field: String,
    /// `routes.yaml:12`, the object's first line.
    pub place: String,
}

/// What a host means for the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// `service`, `routes` (rules know it, no Service has it), `pod`, `unknown`, `blocked`, `gateway`, `nothing`.
    pub found: String,
    /// The names that the host may stand for, likeliest first.
    pub names: Vec<String>,
    /// `namespace/name:port` of the Service.
    pub service: Option<String>,
    /// What the port is declared to speak.
    pub protocol: Option<String>,
    pub object: Option<Reference>,
    /// Who takes the connection: `agent`, `kernel` (it chooses the endpoint), `nobody` (it goes where the app sends it).
    pub taken_by: String,
    /// Its bytes are not looked into: rules for HTTP do not hold.
    pub opaque: bool,
    /// Host of the rules that hold: `reviews.default.svc.cluster.local`, `*.example.com`, `*`.
    pub rules_of: Option<String>,
    /// Objects about the same host that do not count, and why.
    pub shadowed: Vec<Shadowed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadowed {
    #[serde(flatten)]
    pub reference: Reference,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    pub name: String,
    #[serde(flatten)]
    pub reference: Reference,
    /// The first condition that does not hold.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub name: String,
    #[serde(flatten)]
    pub reference: Reference,
    /// Its conditions: `path prefixed /reviews and header end-user exactly jason`; `everything`.
    pub matches: String,
}

/// A step between rule and endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// `cors`, `rate-limit`, `fault-delay`, `fault-abort`, `rewrite`, `request-headers`, `response-headers`, `mirror`,
    /// `redirect`, `direct-response`, `hedge`
    pub kind: String,
    pub text: String,
    /// How many of a hundred requests it touches.
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Beyond the first attempt.
    pub attempts: u32,
    /// In `retryOn`'s words; `proven` is the default: only with proof that the endpoint did not process the request.
    pub on: Vec<String>,
    pub statuses: Vec<u16>,
    pub per_try_timeout_ms: Option<u64>,
    pub backoff_ms: u64,
}

/// One of a rule's destinations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `reviews.default.svc.cluster.local:9080`
    pub to: String,
    pub subset: Option<String>,
    pub weight: u32,
    /// Its share of the requests, of a hundred.
    pub percent: f64,
    /// What the endpoint gets where that differs from what the client sent.
    pub sent: Option<Sent>,
    pub policy: Option<Policy>,
    pub endpoints: Vec<Endpoint>,
    /// The endpoint that this request's hash chooses.
    pub chosen: Option<SocketAddr>,
    /// What its share gets instead of an endpoint.
    pub refusal: Option<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub authority: String,
    pub target: String,
    /// `+name: value` for new and changed fields, `-name` for those removed.
    pub headers: Vec<String>,
}

/// How endpoints are chosen and watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// DestinationRules that hold; none: the mesh's defaults.
    pub rules: Vec<Reference>,
    pub shadowed: Vec<Shadowed>,
    /// `round-robin`, `least-request`, `peak-ewma`, `random`, `ring-hash`, `maglev`, `passthrough`
    pub balancer: String,
    /// `header x-user`, and this request's hash.
    pub hash_key: Option<String>,
    pub hash: Option<u64>,
    /// `locality failover`, `at most 1 connection`, …: whatever is not the default.
    pub settings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub workload: Option<String>,
    /// `region/zone/subzone`
    pub locality: String,
    pub weight: u32,
    /// `ready`, `draining`, `notready`
    pub health: String,
    /// 0 is asked first; none where the endpoint is not asked at all.
    pub priority: Option<u8>,
    /// The pod's address of the other family: dialled only after a connection to the first failed.
    pub second: bool,
    /// Left out by outlier detection.
    pub ejected: bool,
    /// Until the ejection may end.
    pub ejected_ms: u64,
    /// Passed over since connections to it failed.
    pub avoided: bool,
    /// Requests in flight from this node.
    pub active: u32,
    /// Smoothed response time; none where nothing was measured.
    pub latency_ms: Option<f64>,
}

/// What becomes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    /// Of the agent's own answer.
    pub status: Option<u16>,
    /// As in logs and metrics: `NR`, `NC`, `UH`, …
    pub flag: Option<String>,
    pub details: Option<String>,
    /// What the client reads.
    pub body: Option<String>,
    /// One sentence.
    pub summary: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An endpoint answers.
    Forwarded,
    /// The agent answers by a rule's word: a redirect, a preflight, a direct response below 400.
    Answered,
    /// The agent refuses, or cannot find an endpoint.
    Refused,
}
