//! Who calls whom: Istio's series gathered by caller, callee and protocol. A view of the metrics, for `GET /graph`.

use super::Metrics;
use super::cells::BOUNDS;
use super::labels::{Who, value_of};
use super::store::{Family, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace and name of what owns a pod.
pub type Owner = (Arc<str>, Arc<str>);

/// The ends of calls that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// `None`: a client that is no pod of the mesh.
    pub source: Option<Owner>,
    /// `None`: none was chosen, or it is no pod that the configuration knows.
    pub destination: Option<Owner>,
    /// `destination_service_name` and `_namespace`.
    pub service: Owner,
    /// `destination_service`
    pub host: Arc<str>,
    /// The host is the client's word.
    pub undeclared: bool,
    /// `http`, `grpc`, `tcp`
    pub protocol: String,
}

/// Counted since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub requests: u64,
    /// 5xx, no answer although the client waited, gRPC's INTERNAL, UNAVAILABLE and DATA_LOSS.
    pub failures: u64,
    /// By `response_code` (0: no answer), or `grpc N` where the gRPC status is not OK.
    pub codes: BTreeMap<String, u64>,
    /// Durations by bucket, not cumulative; the last is above all of [`bounds_ms`].
    pub buckets: Vec<u64>,
    /// Bytes from the client, and to it.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Opaque connections.
    pub opened: u64,
    pub closed: u64,
    /// Connections were secured by the mesh.
    pub mutual_tls: bool,
}

/// Upper bounds of the buckets.
pub fn bounds_ms() -> &'static [f64] {
    &BOUNDS
}

/// As the callers' side counted them: where this agent is both sides, each call counts once. What the series budget
/// refused is not in it, nor what a Telemetry object switched off; tags that one removed are empty here too.
pub fn calls(metrics: &Metrics) -> BTreeMap<Ends, Calls> {
    let mut all: BTreeMap<Ends, Calls> = BTreeMap::new();
    metrics.store().read_known(|family, who, labels, value| {
        let label = |name| value_of(labels, name);
        // Messages are counted without a protocol; their requests are counted too.
        if label("reporter") == "destination" || matches!(family, Family::RequestMessages | Family::ResponseMessages) {
            return;
        }
        let calls = all.entry(ends(who, label("request_protocol"))).or_default();
        calls.mutual_tls |= label("connection_security_policy") == "mutual_tls";
        match (family, value) {
            (Family::Requests, Value::Counter(count)) => {
                let (code, grpc) = (label("response_code"), label("grpc_response_status"));
                calls.requests += count;
                calls.failures += if is_failure(code, grpc, label("response_flags")) { count } else { 0 };
                let code = if matches!(grpc, "" | "0") { code.to_owned() } else { format!("grpc {grpc}") };
                *calls.codes.entry(code).or_default() += count;
            }
            (Family::Duration, Value::Histogram(total)) => {
                calls.buckets.resize(total.counts.len(), 0);
                calls.buckets.iter_mut().zip(total.counts).for_each(|(sum, count)| *sum += count);
            }
            (Family::RequestBytes, Value::Histogram(total)) => calls.received_bytes += total.thousandths / 1000,
            (Family::ResponseBytes, Value::Histogram(total)) => calls.sent_bytes += total.thousandths / 1000,
            (Family::TcpOpened, Value::Counter(count)) => calls.opened += count,
            (Family::TcpClosed, Value::Counter(count)) => calls.closed += count,
            (Family::TcpReceived, Value::Counter(count)) => calls.received_bytes += count,
            (Family::TcpSent, Value::Counter(count)) => calls.sent_bytes += count,
            // Families are of one kind each.
            _ => {}
        }
    });
    all
}

fn ends(who: &Who, protocol: &str) -> Ends {
    let callee = &who.callee;
    Ends {
        source: who.source.clone(),
        destination: who.destination.clone(),
        service: (Arc::clone(&callee.namespace), Arc::clone(&callee.name)),
        host: Arc::clone(&callee.host),
        undeclared: callee.undeclared,
        protocol: protocol.to_owned(),
    }
}

fn is_failure(code: &str, grpc: &str, flags: &str) -> bool {
    code.starts_with('5') || (code == "0" && flags != "DC") || matches!(grpc, "13" | "14" | "15")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Flags;
    use crate::telemetry::labels::{Codes, coded, peers};
    use crate::telemetry::store::Labels;
    use crate::telemetry::{Callee, Reporter};

    /// Requests that ended so, as both sides count them.
    fn count(metrics: &Metrics, protocol: &str, response: (u16, Option<u8>), requests: u64) {
        let [host, name, namespace] = ["db.shop.svc.cluster.local", "db", "shop"].map(Arc::from);
        let callee = Arc::new(Callee::declared(&host, &name, &namespace));
        let codes = Codes { protocol, response: Some(response), flags: &Flags::NONE };
        for reporter in Reporter::ALL {
            let text = coded(&peers(reporter, None, None, &callee), reporter, &codes).into();
            let labels = Labels { text, who: Arc::new(Who::new(None, None, &callee)) };
            metrics.store().counter(Family::Requests, 0, reporter, &labels).add(requests);
            metrics.store().histogram(Family::Duration, 0, reporter, &labels).observe(3_000, None);
            metrics.store().histogram(Family::RequestBytes, 0, reporter, &labels).observe(700_000, None);
        }
    }

    #[test]
    fn each_call_counts_once_under_its_ends_and_protocol() {
        let metrics = Metrics::new(10_000).expect("metrics");
        count(&metrics, "grpc", (200, Some(0)), 5);
        count(&metrics, "grpc", (200, Some(14)), 2);
        count(&metrics, "http", (404, None), 1);
        let all = calls(&metrics);
        let protocols: Vec<_> = all.keys().map(|ends| ends.protocol.as_str()).collect();
        assert_eq!(protocols, ["grpc", "http"]);
        let (ends, grpc) = all.first_key_value().expect("an edge");
        assert_eq!((&*ends.service.0, &*ends.service.1, &ends.source), ("shop", "db", &None));
        assert_eq!((grpc.requests, grpc.failures, grpc.received_bytes), (7, 2, 1_400));
        assert_eq!(grpc.codes, BTreeMap::from([("200".into(), 5), ("grpc 14".into(), 2)]));
        assert_eq!((grpc.buckets.iter().sum::<u64>(), grpc.buckets.len()), (2, bounds_ms().len() + 1));
    }

    #[test]
    fn what_the_budget_refused_has_no_ends() {
        let metrics = Metrics::new(1).expect("metrics");
        count(&metrics, "http", (200, None), 1);
        assert!(calls(&metrics).is_empty());
    }

    #[test]
    fn a_client_that_leaves_is_nobodys_failure() {
        assert!(is_failure("503", "", "UF") && is_failure("200", "14", "-") && is_failure("0", "", "UC"));
        assert!(!is_failure("0", "", "DC") && !is_failure("200", "5", "-") && !is_failure("404", "", "-"));
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        let labels = r#"destination_app="x",app="y",empty="""#;
        assert_eq!((value_of(labels, "app"), value_of(labels, "destination_app")), ("y", "x"));
        assert_eq!((value_of(labels, "empty"), value_of(labels, "none"), value_of("", "app")), ("", "", ""));
    }
}
