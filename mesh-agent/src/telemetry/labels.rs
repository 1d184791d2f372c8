//! Who talks to whom, in the words of Istio's metrics (SEMANTICS §10). Pure.

use crate::error::Flags;
use crate::snapshot::Workload;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";
const OVERFLOW: &str = "overflow";
const REPORTER: &str = "reporter";
/// The cluster's id, as long as there is one cluster (Istio's default).
const CLUSTER: &str = "Kubernetes";
/// Longest name that DNS allows; what is longer is no host.
const LONGEST_HOST: usize = 253;

/// Where requests or connections go, as far as the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callee {
    /// `destination_service`: `reviews.default.svc.cluster.local`
    pub host: Arc<str>,
    /// `destination_service_name`: `reviews`, or what stands for destinations that nobody declared.
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// The host is the client's word: such names may use up a part of the budget only.
    pub undeclared: bool,
}

/// Which side's sidecar would have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
}

/// What keeps a series alive: the owners (namespace, name) of the workloads it is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Who {
    pub source: Option<(Arc<str>, Arc<str>)>,
    pub destination: Option<(Arc<str>, Arc<str>)>,
    pub callee: Arc<Callee>,
}

/// How requests or connections ended: labels that come after those of [`peers`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes<'a> {
    pub(super) protocol: &'a str,
    /// `None`: of a TCP connection, which has no such labels.
    pub(super) response: Option<(u16, Option<u8>)>,
    pub(super) flags: &'a Flags,
}

impl Callee {
    /// A declared Service.
    pub fn declared(host: &Arc<str>, name: &Arc<str>, namespace: &Arc<str>) -> Self {
        Self { host: Arc::clone(host), name: Arc::clone(name), namespace: Arc::clone(namespace), undeclared: false }
    }

    /// `name`: what stands for it, `PassthroughCluster`; `host`: what the client called it, if it did.
    pub fn undeclared(name: &str, host: Option<&str>) -> Self {
        let host = host.map_or(Cow::Borrowed(UNKNOWN), clean);
        Self { host: host.as_ref().into(), name: name.into(), namespace: UNKNOWN.into(), undeclared: true }
    }

    /// What stands for it in the names of clusters.
    pub fn cluster(&self) -> &Arc<str> {
        if self.undeclared { &self.name } else { &self.host }
    }
}

impl Reporter {
    pub const ALL: [Self; 2] = [Self::Source, Self::Destination];

    fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// Istio: clients do not know; servers see no certificate of a peer as long as there is none.
    fn security(self) -> &'static str {
        match self {
            Self::Source => UNKNOWN,
            Self::Destination => "none",
        }
    }
}

impl Who {
    pub fn new(source: Option<&Workload>, destination: Option<&Workload>, callee: &Arc<Callee>) -> Self {
        let owner = |workload: &Workload| (Arc::clone(&workload.key.namespace), Arc::clone(&workload.owner.name));
        Self { source: source.map(owner), destination: destination.map(owner), callee: Arc::clone(callee) }
    }
}

/// The labels that all of Istio's metrics have, as they are written: `reporter="source",source_workload="web",…`.
pub(super) fn peers(
    reporter: Reporter,
    source: Option<&Workload>,
    destination: Option<&Workload>,
    callee: &Callee,
) -> String {
    written(&peer_labels(reporter, source, destination, callee))
}

/// The labels of what the budget refused: the reporter stays, so that sums by reporter stay true.
pub(super) fn overflow_peers(reporter: Reporter) -> String {
    let callee = Callee::undeclared(OVERFLOW, None);
    written(
        &peer_labels(reporter, None, None, &callee)
            .map(|(name, value)| (name, if name == REPORTER { value } else { OVERFLOW })),
    )
}

fn peer_labels<'a>(
    reporter: Reporter,
    source: Option<&'a Workload>,
    destination: Option<&'a Workload>,
    callee: &'a Callee,
) -> [(&'static str, &'a str); 20] {
    let (from, to) = (Peer::of(source), Peer::of(destination));
    // A server knows no other namespace than its own.
    let namespace = match (reporter, destination) {
        (Reporter::Destination, Some(own)) => &*own.key.namespace,
        _ => &callee.namespace,
    };
    [
        (REPORTER, reporter.label()),
        ("source_workload", from.workload),
        ("source_canonical_service", from.service),
        ("source_canonical_revision", from.revision),
        ("source_workload_namespace", from.namespace),
        ("source_principal", UNKNOWN),
        ("source_app", from.app),
        ("source_version", from.version),
        ("source_cluster", from.cluster),
        ("destination_workload", to.workload),
        ("destination_workload_namespace", to.namespace),
        ("destination_principal", UNKNOWN),
        ("destination_app", to.app),
        ("destination_version", to.version),
        ("destination_service", &callee.host),
        ("destination_canonical_service", to.service),
        ("destination_canonical_revision", to.revision),
        ("destination_service_name", &callee.name),
        ("destination_service_namespace", namespace),
        ("destination_cluster", to.cluster),
    ]
}

/// `peers` with the labels of how it ended.
pub(super) fn coded(peers: &str, reporter: Reporter, codes: &Codes<'_>) -> String {
    let mut text = String::with_capacity(peers.len() + 128);
    text.push_str(peers);
    label(&mut text, "request_protocol", codes.protocol);
    if let Some((code, grpc)) = codes.response {
        label(&mut text, "response_code", &code.to_string());
        label(&mut text, "grpc_response_status", &grpc.map(|status| status.to_string()).unwrap_or_default());
    }
    label(&mut text, "response_flags", &codes.flags.to_string());
    label(&mut text, "connection_security_policy", reporter.security());
    text
}

/// As [`coded`], of what the budget refused.
pub(super) fn overflow_codes(peers: &str, http: bool) -> String {
    let mut text = peers.to_owned();
    label(&mut text, "request_protocol", OVERFLOW);
    if http {
        label(&mut text, "response_code", OVERFLOW);
        label(&mut text, "grpc_response_status", OVERFLOW);
    }
    label(&mut text, "response_flags", OVERFLOW);
    label(&mut text, "connection_security_policy", OVERFLOW);
    text
}

/// A workload in metrics' words.
struct Peer<'a> {
    workload: &'a str,
    namespace: &'a str,
    app: &'a str,
    version: &'a str,
    service: &'a str,
    revision: &'a str,
    cluster: &'a str,
}

impl<'a> Peer<'a> {
    fn of(workload: Option<&'a Workload>) -> Self {
        let Some(of) = workload else {
            return Self {
                workload: UNKNOWN,
                namespace: UNKNOWN,
                app: UNKNOWN,
                version: UNKNOWN,
                service: UNKNOWN,
                revision: LATEST,
                cluster: UNKNOWN,
            };
        };
        let first = |names: &[&str]| names.iter().find_map(|name| of.labels.get(*name)).map(|value| &**value);
        Self {
            workload: &of.owner.name,
            namespace: &of.key.namespace,
            app: first(&["app"]).unwrap_or(UNKNOWN),
            version: first(&["version"]).unwrap_or(UNKNOWN),
            service: canonical_service(of),
            revision: canonical_revision(of),
            cluster: CLUSTER,
        }
    }
}

/// `service.istio.io/canonical-name` > `app.kubernetes.io/name` > `app` > the workload's name.
pub fn canonical_service(workload: &Workload) -> &str {
    let labels = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    labels.iter().find_map(|name| workload.labels.get(*name)).unwrap_or(&workload.owner.name)
}

/// `service.istio.io/canonical-revision` > `app.kubernetes.io/version` > `version` > `latest`.
pub fn canonical_revision(workload: &Workload) -> &str {
    let labels = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    labels.iter().find_map(|name| workload.labels.get(*name)).map_or(LATEST, |revision| revision)
}

/// A host as the network says it: nothing but what a host and port are made of, and no longer than one.
fn clean(host: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if host.is_empty() || host.len() > LONGEST_HOST + ":65535".len() || !host.bytes().all(fits) {
        return Cow::Borrowed("invalid");
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

/// Labels as they are written, some of them put in place of others or (`None`) left out.
pub(super) fn rewritten<'a>(text: &str, tags: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Each is `name="value"`; quotes in values are escaped.
    while let Some((name, value)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = value.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(value.len());
        let (value, after) = value.split_at(end);
        if tags.clone().all(|(tag, _)| tag != name) {
            let comma = if out.is_empty() { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(out, "{comma}{name}=\"{value}\"");
        }
        rest = after.trim_start_matches('"').trim_start_matches(',');
    }
    tags.filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| label(&mut out, name, value));
    out
}

fn written(labels: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(1024);
    labels.iter().for_each(|(name, value)| label(&mut text, name, value));
    text
}

/// Appends `,name="value"`; prometheus' text format escapes `\`, `"` and line feeds.
pub(super) fn label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    // Writing to a String does not fail.
    let _ = write!(text, "{name}=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

/// The value of a label in labels as they are written; for those that need no escapes. Empty where there is none.
pub(super) fn value_of<'a>(labels: &'a str, name: &str) -> &'a str {
    let starts = labels.match_indices(name).map(|(at, _)| labels.split_at(at));
    let found = starts.filter(|(before, _)| before.is_empty() || before.ends_with("\","));
    let mut values = found.filter_map(|(_, rest)| rest.strip_prefix(name)?.strip_prefix("=\""));
    values.find_map(|value| value.split_once('"')).map_or("", |(value, _)| value)
}

#[cfg(test)]
mod tests;
