//! What spans say of a request: Envoy's tags (`tracing/http_tracer_impl.cc`), Istio's, and ours.

use super::span::Tag;
use super::{Caller, request_id::REQUEST_ID};
use crate::error::Flags;
use crate::grpc;
use crate::snapshot::tracing::{CustomTag, TagValue, Tracing};
use crate::snapshot::{ClusterKey, Workload};
use crate::telemetry::{canonical_revision, canonical_service};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, Version};

const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// Longest value that a client chooses, bytes.
const LONGEST: usize = 256;

/// What is known when the request's head is there.
pub(super) fn request(settings: &Tracing, headers: &HeaderMap, caller: Caller<'_>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = vec![
        ("component".into(), "proxy".into()),
        ("http.method".into(), cut(caller.method.as_str(), LONGEST).to_owned().into()),
        ("http.url".into(), url(settings, headers, caller).into()),
        ("http.protocol".into(), protocol(caller.version).into()),
        ("peer.address".into(), caller.client.ip().to_string().into()),
        ("downstream_cluster".into(), "-".into()),
    ];
    let mut header = |tag: &'static str, name: &HeaderName| {
        if let Some(value) = text(headers, name) {
            tags.push((tag.into(), value.to_owned().into()));
        }
    };
    header("guid:x-request-id", &REQUEST_ID);
    header("guid:x-client-trace-id", &CLIENT_TRACE_ID);
    header("user_agent", &USER_AGENT);
    if grpc::is_grpc(headers) {
        header("grpc.authority", &HOST);
        header("grpc.content_type", &CONTENT_TYPE);
        header("grpc.timeout", &grpc::GRPC_TIMEOUT);
        tags.push(("grpc.path".into(), cut(caller.uri.path(), LONGEST).to_owned().into()));
    }
    for CustomTag { name, value } in &settings.tags {
        let value = match value {
            TagValue::Literal(value) => Some(value.to_string()),
            TagValue::Header { name, default } => text(headers, name).or(default.as_deref()).map(str::to_owned),
        };
        tags.extend(value.map(|value| (name.to_string().into(), value.into())));
    }
    tags
}

/// What one side's pod adds. `router`: it is a gateway.
pub(super) fn workload(settings: &Tracing, workload: &Workload, router: bool, domain: &str, tags: &mut Vec<Tag>) {
    let (namespace, role) = (&workload.key.namespace, if router { "router" } else { "sidecar" });
    let ip = workload.ips.first().map(ToString::to_string).unwrap_or_default();
    // Istio's form: Kiali finds the pod by it.
    tags.push((
        "node_id".into(),
        format!("{role}~{ip}~{}.{namespace}~{namespace}.svc.{domain}", workload.key.name).into(),
    ));
    if settings.istio_tags {
        tags.extend([
            ("istio.canonical_service".into(), canonical_service(workload).to_owned().into()),
            ("istio.canonical_revision".into(), canonical_revision(workload).to_owned().into()),
            ("istio.mesh_id".into(), domain.to_owned().into()),
            ("istio.namespace".into(), namespace.to_string().into()),
            ("istio.cluster_id".into(), "Kubernetes".into()),
        ]);
    }
}

/// How one side's view of the request ended.
pub(super) struct Ended {
    pub(super) code: u16,
    pub(super) grpc: Option<u8>,
    pub(super) flags: Flags,
    /// Body bytes of the request and of the response.
    pub(super) sizes: [u64; 2],
}

impl Ended {
    /// Envoy: 5xx, or no response; for gRPC its own classes of errors.
    pub(super) fn is_failure(&self) -> bool {
        // Unknown, deadline, resource, unimplemented, internal, unavailable, data loss.
        let grpc = matches!(self.grpc, Some(2 | 4 | 8 | 12..=15));
        grpc || self.code == 0 || self.code >= 500
    }

    pub(super) fn write(&self, tags: &mut Vec<Tag>) {
        let [request, response] = self.sizes;
        tags.extend([
            ("http.status_code".into(), self.code.to_string().into()),
            ("response_flags".into(), self.flags.to_string().into()),
            ("request_size".into(), request.to_string().into()),
            ("response_size".into(), response.to_string().into()),
        ]);
        if let Some(status) = self.grpc {
            tags.push(("grpc.status_code".into(), status.to_string().into()));
        }
    }
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local`; what nobody declared has a name of its own.
pub(super) fn cluster(host: &str, undeclared: bool, key: &ClusterKey) -> String {
    if undeclared {
        return host.to_owned();
    }
    format!("outbound|{}|{}|{host}", key.port.port, key.subset.as_deref().unwrap_or_default())
}

fn url(settings: &Tracing, headers: &HeaderMap, caller: Caller<'_>) -> String {
    let authority = caller.uri.authority().map(http::uri::Authority::as_str).or_else(|| text(headers, &HOST));
    let target = caller.uri.path_and_query().map_or("/", |target| target.as_str());
    let path = headers.get(ORIGINAL_PATH).and_then(|path| path.to_str().ok()).unwrap_or(target);
    let scheme = if caller.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", cut(authority.unwrap_or_default(), LONGEST), cut(path, settings.longest_path))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(|value| cut(value, LONGEST))
}

fn cut(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
