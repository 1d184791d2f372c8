//! What the admin socket answers, as plain values: the server fills them, `mesh-agent`'s subcommands print them.
//!
//! Invariant: a view owns everything it shows and names nothing internal, so that scripts reading `-o json` survive a
//! change of the agent's own types. Durations say their unit in the field's name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `GET /status`: is this node's mesh in order, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub node: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// Stopping: no new connections are taken, the open ones are being finished.
    pub draining: bool,
    pub workers: usize,
    pub config: ConfigStatus,
    pub pods: Pods,
    pub kernel: KernelStatus,
    /// Whether new pods wait for the mesh; `None` without `--cni-conf-dir`.
    pub cni: Option<Chain>,
    pub connections: Connections,
    /// Listeners asked for with `--listen`.
    pub listeners: Vec<Listener>,
    /// `None` when switched off.
    pub metrics_addr: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Files and folders; none where the objects are a cluster's.
    pub sources: Vec<PathBuf>,
    pub cluster: Option<Cluster>,
    /// Grows by one with each published change; 0 before the first.
    pub generation: u64,
    pub services: usize,
    pub endpoints: usize,
    pub diagnostics: DiagnosticCounts,
}

/// How the agent stands with the API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub server: String,
    /// `in-sync`; `away`: what was last heard is in force; `last-known`: what an earlier run heard is in force, because
    /// the server has not said everything yet; `waiting`: nothing is in force before it has.
    pub state: String,
    /// Since the server last answered, while it does not.
    pub away_seconds: Option<u64>,
    pub reason: String,
    /// The newest `metadata.resourceVersion` that was heard; 0 before the first.
    pub resource_version: u64,
    /// Hash of all objects that every agent has alike (no Pods, no Secrets): two agents with the same one have the same
    /// configuration.
    pub objects: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticCounts {
    pub errors: usize,
    pub warnings: usize,
    pub infos: usize,
}

/// Every pod the configuration places on this node is in exactly one of the lists: nothing is silent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pods {
    pub in_mesh: Vec<String>,
    pub outside: Vec<OutsidePod>,
    /// Pods of other nodes that are in the mesh.
    pub elsewhere: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutsidePod {
    pub pod: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// `full`: capture and redirection; `no-redirect`: capture over plain TCP; `none`: only `--listen` is served.
    pub tier: String,
    pub reason: String,
    pub abi: u32,
    pub sk_msg: Switch,
    /// Age of the last beat the connect hooks saw; `None` without kernel programs or before the first.
    pub heartbeat_age_ms: Option<u64>,
    /// Programs of others on the hooks we use; they run before or after ours and may change the address first.
    pub other_programs: Vec<OtherProgram>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    pub on: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OtherProgram {
    pub hook: String,
    pub id: u32,
    pub name: String,
}

/// Where the CNI plugin is chained in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// The node's network configuration; `None`: in none, and new pods join a moment after their start.
    pub file: Option<PathBuf>,
    pub reason: String,
}

/// Open client connections, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now, from apps to this agent.
    pub open: usize,
    /// The same, one number per worker.
    pub by_worker: Vec<usize>,
    /// Requests (and opaque connections) under way to endpoints.
    pub active_requests: u64,
}

/// `GET /connections`: the counts, and the oldest connections one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionList {
    #[serde(flatten)]
    pub counts: Connections,
    /// At most 1000.
    pub connections: Vec<Connection>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub id: u64,
    /// The pod that made it; `None`: it came to a listener asked for with `--listen`.
    pub source: Option<String>,
    pub client: SocketAddr,
    /// The address the app asked for, or the listener's Service and port.
    pub destination: String,
    /// `http1`, `http2`, `opaque`, or `unknown` while the first bytes have not come.
    pub protocol: String,
    pub age_seconds: u64,
    /// HTTP requests so far, and those under way (of HTTP/1.1 until the answer's head).
    pub requests: u64,
    pub streams: u32,
    /// Bytes from the client and to it.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Why the kernel brought it to the agent (`REASONS.md`), and bytes that it took past TCP/IP so far; `None` where the
    /// kernel did not.
    #[serde(default)]
    pub verdict: Option<String>,
    #[serde(default)]
    pub redirected_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub addr: SocketAddr,
    /// `namespace/service:port`
    pub target: String,
    /// False while no such Service and port is configured: requests are answered 503 until it appears.
    pub known: bool,
}

/// One row of `GET /services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub host: String,
    pub addresses: Vec<String>,
    pub headless: bool,
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub port: u16,
    pub name: String,
    pub protocol: String,
    pub policy: String,
    pub ready: usize,
    pub draining: usize,
    pub not_ready: usize,
    /// Who chooses the endpoint of a captured connection: `agent` (per request) or `kernel` (per connection).
    pub balanced_by: String,
}

/// One row of `GET /endpoints`. Addresses of both families of one pod are two rows with one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `namespace/service:port`
    pub service: String,
    /// The DestinationRule's subset whose state this is; `None`: of the whole port. Subsets are listed once they are used.
    pub subset: Option<String>,
    pub addr: SocketAddr,
    pub workload: Option<String>,
    /// `region/zone/subzone`, as far as known.
    pub locality: String,
    pub weight: u32,
    /// What the configuration says: `ready`, `draining`, `notready`.
    pub health: String,
    /// Set while the agent sends it nothing because connections to it fail.
    pub avoided: bool,
    /// Left out by outlier detection.
    pub ejected: bool,
    /// For how much longer at least; it comes back at the next round of the detection.
    pub ejected_ms: u64,
    /// Ejections so far.
    pub ejections: u32,
    pub active: u64,
    /// Of the endpoint, whichever subset they were for.
    pub requests: u64,
    pub failures: u64,
    /// Moving average of response times; `None` before the first response.
    pub latency_ms: Option<f64>,
}

/// One row of `GET /workloads`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    pub name: String,
    /// `Deployment/reviews-v1`
    pub owner: String,
    pub node: String,
    pub service_account: String,
    pub addresses: Vec<String>,
    /// `enrolled`, `elsewhere`, `outside`
    pub mesh: String,
    /// Why it is outside; empty otherwise.
    pub reason: String,
}

/// `GET /kernel`: the programs and maps, decoded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub status: KernelStatus,
    /// Where the programs came from: `fresh`, `adopted`, `upgraded`, `replaced`.
    pub adoption: String,
    pub pods_cgroup: String,
    pub pin_dir: String,
    pub hooks: Vec<Hook>,
    pub maps: Vec<Map>,
    pub counters: Vec<Counter>,
    pub services: Vec<KernelService>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    /// `attached`, `adopted`, `swapped`, `missing`
    pub state: String,
    /// Why it is missing; empty otherwise.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Map {
    pub name: String,
    pub entries: usize,
    /// `None` for the maps of fixed size.
    pub capacity: Option<u32>,
    /// Decoded entries.
    pub rows: Vec<MapRow>,
}

/// Connections to one Service's port that the kernel placed without the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelService {
    pub service: String,
    pub opened: u64,
    pub closed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    pub srtt_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapRow {
    pub key: String,
    pub value: String,
}

/// How often the hooks ended with a reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    pub reason: String,
    pub count: u64,
}

/// `GET /graph`: who calls whom. Everything is counted since the agent's start: two answers make a rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    pub node: String,
    /// Upper bounds of the buckets of durations, milliseconds; the last bucket is above them.
    pub bounds_ms: Vec<f64>,
    pub edges: Vec<Edge>,
}

/// Calls of one workload to another through one Service by one protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    pub source: Peer,
    pub destination: Peer,
    /// `namespace/name` of the Service; the host where none was declared.
    pub service: String,
    /// `http`, `grpc`, `tcp`
    pub protocol: String,
    /// `mutual_tls`: secured by the mesh; `none`
    pub security: String,
    pub requests: u64,
    /// Requests for which the destination is to blame: 5xx, no answer, gRPC INTERNAL, UNAVAILABLE, DATA_LOSS.
    pub failures: u64,
    /// Requests by status code, `0` without an answer, or by `grpc 14` where the gRPC status is not OK.
    pub codes: BTreeMap<String, u64>,
    /// Requests by duration, not cumulative.
    pub buckets: Vec<u64>,
    /// From the source, heads included.
    pub request_bytes: u64,
    /// To the source.
    pub response_bytes: u64,
    /// Opaque connections: ever, and now.
    pub opened: u64,
    pub open: u64,
}

/// An end of calls; all empty: a client that is no pod of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    pub namespace: String,
    /// What owns the pods: `reviews-v1`; empty where no endpoint was chosen or it is no pod.
    pub workload: String,
    /// The workload's canonical service: `reviews`.
    pub service: String,
}

/// `GET /traffic`: requests by what Istio's metrics do not tell apart, as callers saw them. Everything is counted since
/// the agent's start: two answers make a rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub node: String,
    /// Upper bounds of the buckets of durations, milliseconds; the last bucket is above them.
    pub bounds_ms: Vec<f64>,
    pub routes: Vec<RouteTraffic>,
    pub pods: Vec<PodTraffic>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTraffic {
    /// `namespace/name` of the Service; what stands for it where none was declared.
    pub service: String,
    /// The route's name; empty for requests that no route took.
    pub route: String,
    pub requests: Tally,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodTraffic {
    /// `namespace/name`
    pub pod: String,
    /// What owns it.
    pub workload: String,
    /// Requests that it made.
    pub asked: Tally,
    /// Requests that it was the last to be asked.
    pub answered: Tally,
    /// CPU time of the agent's workers for its connections.
    pub cpu_seconds: f64,
    /// What the agent holds for it.
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// As `failures` of the graph.
    pub failures: u64,
    /// Requests by duration, not cumulative: together all of them.
    pub buckets: Vec<u64>,
}

/// One line of the answer to `POST /tap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapLine {
    Request(Box<Tapped>),
    /// How many requests were not shown so far, because whoever looks is too slow.
    Dropped(u64),
}

/// A request, or an opaque connection, that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tapped {
    /// When it began: `2026-11-21T17:34:24.123Z`.
    pub time: String,
    pub source: TappedPeer,
    pub destination: TappedPeer,
    /// `namespace/name` of the Service; what stands for it where none was declared.
    pub service: String,
    /// `http`, `grpc`, `tcp`
    pub protocol: String,
    /// The client's, `HTTP/1.1`; with `method`, `host` and `path` empty for `tcp`.
    pub version: String,
    pub method: String,
    pub host: String,
    /// With its query, as the client sent it, cut at 1 KiB.
    pub path: String,
    /// `None`: no answer was sent.
    pub code: Option<u16>,
    pub grpc_status: Option<u8>,
    /// Envoy's response flags; none: empty.
    pub flags: Vec<String>,
    /// Envoy's response code details.
    pub details: String,
    /// The route's name.
    pub route: String,
    /// To the end of the answer.
    pub duration_ms: f64,
    /// Of the time until the answer's head: what the agent took, and what endpoints took. `None` where none answered.
    pub agent_ms: Option<f64>,
    pub upstream_ms: Option<f64>,
    /// Of bodies, from the client and to it.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// 1 where the first endpoint answered, 0 where none was asked.
    pub attempts: u32,
    /// As `mesh-agent connections` numbers them.
    pub connection: u64,
    /// Of the connection to the endpoint: smoothed round-trip time, and segments sent again since it was made. `None`
    /// where none answered.
    pub srtt_us: Option<u32>,
    pub retransmits: Option<u32>,
    /// Of a captured client connection: why the kernel brought it to the agent (`REASONS.md`), and the bytes that it took
    /// past TCP/IP so far.
    pub verdict: Option<String>,
    pub redirected_bytes: Option<u64>,
    /// Of requests that are recorded; 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

/// An end of a request; names are empty where it is no pod that the agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TappedPeer {
    pub namespace: String,
    pub pod: String,
    /// What owns the pod: `reviews-v1`.
    pub workload: String,
    pub address: Option<SocketAddr>,
}

/// One row of `GET /diagnostics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// `error`, `warning`, `info`
    pub severity: String,
    /// Stable: `UM0102`.
    pub code: String,
    /// `mesh.yaml:12`
    pub file: String,
    /// `Service default/reviews`
    pub object: String,
    /// `spec.ports[0].name`
    pub field: String,
    pub message: String,
    pub fix: String,
}

/// Answer to `PUT /log-level` and `GET /log-level`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLevel {
    pub filter: String,
}

/// Body of every answer that is not 2xx: what failed, and what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}
