//! `GET /graph`: the metrics' calls, with the canonical services that the configuration gives their workloads.

use crate::admin::view::{Edge, Graph, Peer};
use crate::snapshot::Snapshot;
use crate::telemetry::graph::{self, Calls, Ends, Owner};
use crate::telemetry::{Metrics, canonical_service};
use std::collections::HashMap;
use std::sync::Arc;

/// Canonical service of each workload.
type Services<'a> = HashMap<Owner, &'a str>;

pub(super) fn view(metrics: &Metrics, snapshot: &Snapshot, node: &str) -> Graph {
    let owner = |of: &crate::snapshot::Workload| (Arc::clone(&of.key.namespace), Arc::clone(&of.owner.name));
    let services: Services<'_> = snapshot.workloads().map(|of| (owner(of), canonical_service(of))).collect();
    Graph {
        node: node.to_owned(),
        bounds_ms: graph::bounds_ms().to_vec(),
        edges: graph::calls(metrics).into_iter().map(|(ends, calls)| edge(&services, ends, calls)).collect(),
    }
}

fn edge(services: &Services<'_>, ends: Ends, calls: Calls) -> Edge {
    Edge {
        source: ends.source.as_ref().map_or_else(Peer::default, |owner| peer(services, owner)),
        destination: match &ends.destination {
            Some(owner) => peer(services, owner),
            // No workload answered: the Service stands for it, or what the client called it.
            None if ends.undeclared => Peer { service: stranger(&ends).to_owned(), ..Peer::default() },
            None => Peer {
                namespace: ends.service.0.to_string(),
                workload: String::new(),
                service: ends.service.1.to_string(),
            },
        },
        service: match ends.undeclared {
            true => stranger(&ends).to_owned(),
            false => format!("{}/{}", ends.service.0, ends.service.1),
        },
        protocol: ends.protocol,
        security: if calls.mutual_tls { "mutual_tls" } else { "none" }.into(),
        requests: calls.requests,
        failures: calls.failures,
        codes: calls.codes,
        buckets: calls.buckets,
        request_bytes: calls.received_bytes,
        response_bytes: calls.sent_bytes,
        opened: calls.opened,
        open: calls.opened.saturating_sub(calls.closed),
    }
}

fn peer(services: &Services<'_>, owner: &Owner) -> Peer {
    let service = services.get(owner).copied().unwrap_or(&owner.1);
    Peer { namespace: owner.0.to_string(), workload: owner.1.to_string(), service: service.to_owned() }
}

/// The host that the client named, else what stands for all that nobody declared (`PassthroughCluster`).
fn stranger(ends: &Ends) -> &str {
    if &*ends.host == "unknown" { &ends.service.1 } else { &ends.host }
}
