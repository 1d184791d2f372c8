//! Compiled routes: what VirtualServices, HTTPRoutes and GRPCRoutes say about the requests for one host.
//!
//! Place in the path: `config::compile` makes them, `route` matches requests against them and changes requests by
//! them. Invariant: everything a request needs is resolved here as far as the configuration allows; nothing is parsed
//! per request.

pub use super::pattern::{Pattern, PatternError};
pub use super::table::RouteTable;

use crate::config::resource::ObjectKey;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The routes of one host, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VirtualHost {
    /// `reviews.default.svc.cluster.local`, `*.example.com`, `*`
    pub host: Arc<str>,
    pub family: Family,
    /// Namespace of the objects it was made of; `Visibility::visible_to` reads it with `export`.
    pub namespace: Arc<str>,
    pub export: Visibility,
    /// The Service's ports it speaks for (Gateway API `parentRefs[].port`); empty: all.
    pub ports: Vec<u16>,
    /// First match wins, except that a route whose `Conditions` do not hold is passed over.
    pub routes: RouteTable,
}

/// Whose rules hold where the two differ (SEMANTICS §3 and §11); for one host the smaller counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// No match: 404 NR. Missing backend: 503 NC.
    Istio,
    /// No match: 404. Missing or refused backend: its share gets 500.
    GatewayApi,
    /// Made by us where no object speaks: one route to the Service itself.
    Default,
}

/// `exportTo` (Istio), producer or consumer namespace (Gateway API).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    Public,
    /// `.`
    Private,
    Namespaces(Vec<Arc<str>>),
    /// `~`
    Nobody,
}

/// The rule something was made of, for logs, `explain` and diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RuleRef {
    /// `None` for what we made ourselves.
    pub object: Option<ObjectKey>,
    /// `spec.http[0].match[1]`
    pub field: Arc<str>,
}

/// One rule: one `match` entry with the action of its route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Istio `<http.name>[.<match.name>]`, Gateway API `<ns>.<route>.<index>`, `default` for what we made.
    pub name: Arc<str>,
    pub rule: RuleRef,
    pub conditions: Conditions,
    pub matcher: Matcher,
    pub action: Action,
    pub fault: Option<Arc<Fault>>,
    pub cors: Option<Arc<Cors>>,
    pub rate_limit: Option<Arc<RateLimit>>,
    /// On every request that the route takes, and every response it gives.
    pub headers: HeaderOps,
}

/// What is known before the request: connection, source, listener (SEMANTICS §3 "Static match fields").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// Port of the Service or listener.
    pub port: Option<u16>,
    pub source_namespace: Option<Arc<str>>,
    /// All of them on the source workload.
    pub source_labels: Vec<(Arc<str>, Arc<str>)>,
    /// `namespace/name` of gateways, or [`MESH`]. Never empty.
    pub gateways: Vec<Arc<str>>,
}

/// Istio's reserved name for "every workload that is no gateway".
pub const MESH: &str = "mesh";

/// All of it must hold. Empty: every request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Matcher {
    pub path: Option<PathMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    /// As sent, with the port if there was one.
    pub authority: Option<StringMatch>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
}

/// On the path without query and fragment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    Exact {
        value: Arc<str>,
        ignore_case: bool,
    },
    /// Of the string: `/v2` matches `/v2x`.
    Prefix {
        value: Arc<str>,
        ignore_case: bool,
    },
    /// Of whole segments (Gateway API `PathPrefix`), without a trailing slash: `/v2` matches `/v2` and `/v2/x`.
    SegmentPrefix(Arc<str>),
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Regex(Pattern),
    /// There is a value, whatever it is.
    Present,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderMatch {
    #[serde(serialize_with = "as_text")]
    pub name: HeaderName,
    pub value: StringMatch,
    /// `withoutHeaders`: must not match; a missing header counts as empty (SEMANTICS §2.4).
    pub invert: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryMatch {
    /// Compared as it is written in the target, percent-encoded or not (Envoy); the first of several counts.
    pub name: Arc<str>,
    pub value: StringMatch,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// Where requests go, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forward {
    /// Weights above 0 only; empty where none is left (Gateway API: 500).
    pub backends: Vec<Backend>,
    pub rewrite: Option<Rewrite>,
    /// For all attempts and the pauses between them; `None`: unlimited.
    pub timeout: Option<Duration>,
    /// `None`: nothing is repeated, not even with proof (`attempts: 0`).
    pub retry: Option<Arc<RetryPolicy>>,
    pub mirrors: Vec<Mirror>,
    pub hedge: Option<Arc<Hedge>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    /// ≥ 1; its share is weight ÷ sum of all.
    pub weight: u32,
    pub to: BackendTo,
    pub headers: HeaderOps,
    /// Gateway API filters of this backend.
    pub mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendTo {
    Service(Destination),
    /// A backend that cannot be used, known at compile time: its share gets this answer.
    Refused {
        #[serde(serialize_with = "as_text")]
        status: StatusCode,
        why: Arc<str>,
    },
}

/// A port of a Service, by host: found when the request comes, so endpoints may churn without a route changing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Destination {
    /// FQDN.
    pub host: Arc<str>,
    /// `None`: the only port, else the port the client asked for (SEMANTICS §3 "Destination port").
    pub port: Option<u16>,
    pub subset: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mirror {
    pub to: Destination,
    /// Of a million.
    pub share: u32,
}

/// Header operations of one place in a route: `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderOps {
    pub request: Option<Arc<HeaderChange>>,
    pub response: Option<Arc<HeaderChange>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderChange {
    #[serde(serialize_with = "as_texts")]
    pub remove: Vec<HeaderName>,
    #[serde(serialize_with = "as_pairs")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    #[serde(serialize_with = "as_pairs")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// `Host` or `:authority` among them (requests only).
    pub authority: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rewrite {
    pub path: Option<PathRewrite>,
    pub authority: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathRewrite {
    /// In place of the matched prefix, glued naively (VirtualService): `/foo` → `/` makes `//bar` of `/foo/bar`.
    Prefix(Arc<str>),
    /// In place of whole segments (Gateway API `ReplacePrefixMatch`): `/foo` → `/` makes `/bar` of `/foo/bar`.
    SegmentPrefix(Arc<str>),
    /// The whole path; the query stays.
    Full(Arc<str>),
    /// All matches; `\1` in the replacement are groups.
    Regex { pattern: Pattern, replacement: Arc<str> },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redirect {
    #[serde(serialize_with = "as_text")]
    pub status: StatusCode,
    pub scheme: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    pub port: RedirectPort,
    pub path: Option<PathRewrite>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedirectPort {
    /// None said: the request's, without a default port when the scheme changes.
    Keep,
    Number(u16),
    /// `FROM_REQUEST_PORT`: the listener's.
    FromRequest,
    /// `FROM_PROTOCOL_DEFAULT`
    FromScheme,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirectResponse {
    #[serde(serialize_with = "as_text")]
    pub status: StatusCode,
    #[serde(skip)]
    pub body: bytes::Bytes,
}

/// `fault`: each part drawn by itself, delay first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultDelay {
    pub fixed: Duration,
    /// Of a million.
    pub share: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultAbort {
    pub with: AbortWith,
    /// Of a million.
    pub share: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AbortWith {
    Http(#[serde(serialize_with = "as_text")] StatusCode),
    /// gRPC status number, sent as a trailers-only 200.
    Grpc(u8),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cors {
    pub allow_origins: Vec<StringMatch>,
    #[serde(serialize_with = "as_text_option")]
    pub allow_methods: Option<HeaderValue>,
    #[serde(serialize_with = "as_text_option")]
    pub allow_headers: Option<HeaderValue>,
    /// `*`: whatever the request asks for is echoed.
    pub allow_any_header: bool,
    #[serde(serialize_with = "as_text_option")]
    pub expose_headers: Option<HeaderValue>,
    pub max_age: Option<Duration>,
    pub allow_credentials: bool,
    /// A preflight whose origin does not match goes to the endpoint (Istio's default), or is answered here.
    pub forward_unmatched_preflights: bool,
}

/// When and how often a request is repeated (SEMANTICS §3 "Retries").
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    /// Beyond the first attempt.
    pub attempts: u32,
    pub on: RetryOn,
    /// HTTP statuses of the endpoint's answer that are repeated.
    pub statuses: Vec<u16>,
    pub per_try_timeout: Option<Duration>,
    /// B of SEMANTICS §3: retry n waits uniform[0, min(B·2^(n-1), 10·B)).
    pub backoff: Duration,
    /// An endpoint tried before is chosen again only where there is no other; `None`: except with `consistentHash`.
    pub avoid_previous: Option<bool>,
    /// After every 2 attempts leaves out the priorities tried.
    pub remote_localities: bool,
}

/// `retryOn` as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct RetryOn(pub u32);

impl RetryOn {
    pub const FIVE_XX: Self = Self(1);
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    pub const RESET: Self = Self(1 << 2);
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    pub const ENVOY_RATELIMITED: Self = Self(1 << 8);
    pub const CANCELLED: Self = Self(1 << 9);
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 10);
    pub const INTERNAL: Self = Self(1 << 11);
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 12);
    pub const UNAVAILABLE: Self = Self(1 << 13);
    /// Ours, and the default: only with proof that the endpoint did not process the request.
    pub const PROVEN: Self = Self(1 << 14);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A second attempt beside a slow first one; the first answer wins (gRFC A6 "hedging").
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hedge {
    /// After this long without an answer.
    pub delay: Option<Duration>,
    /// A `perTryTimeout` does not end its attempt but starts another one beside it (Envoy's
    /// `hedge_on_per_try_timeout`).
    pub on_per_try_timeout: bool,
    /// All together, the first included.
    pub max_attempts: u32,
    /// Of a hundred requests in flight, how many may be hedges.
    pub budget_percent: u32,
    /// Only requests with one of these methods are hedged; empty: gRPC only where marked safe, HTTP GET and HEAD.
    pub methods: Vec<Arc<str>>,
}

/// A token bucket for each source workload and host, or route, as a sidecar has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateLimit {
    pub max_tokens: u32,
    pub tokens_per_fill: u32,
    pub fill_interval: Duration,
    /// Of a million requests, how many the limit holds for.
    pub share: u32,
    pub resource_exhausted: bool,
    pub response_headers: Option<Arc<HeaderChange>>,
    pub rule: RuleRef,
    /// Whose requests are counted together: `HOST/` or, where the rule names routes, `HOST/ROUTE`.
    pub scope: Arc<str>,
}

impl Visibility {
    /// Whether an object of `namespace` is seen from `client`.
    pub fn visible_to(&self, namespace: &str, client: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Private => namespace == client,
            Self::Namespaces(list) => list.iter().any(|n| &**n == client || (&**n == "." && namespace == client)),
            Self::Nobody => false,
        }
    }

    /// Istio's order of preference: same-namespace private, exported to the client's namespace, public.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Private => 0,
            Self::Namespaces(_) => 1,
            Self::Public | Self::Nobody => 2,
        }
    }
}

trait Text {
    fn text(&self) -> String;
}

impl Text for HeaderName {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Text for HeaderValue {
    fn text(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

impl Text for StatusCode {
    fn text(&self) -> String {
        self.as_u16().to_string()
    }
}

fn as_text<T: Text, S: serde::Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&value.text())
}

fn as_text_option<S: serde::Serializer>(value: &Option<HeaderValue>, s: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(Text::text).serialize(s)
}

fn as_texts<S: serde::Serializer>(values: &[HeaderName], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(values.iter().map(HeaderName::as_str))
}

fn as_pairs<S: serde::Serializer>(values: &[(HeaderName, HeaderValue)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(values.iter().map(|(name, value)| (name.as_str(), value.text())))
}
