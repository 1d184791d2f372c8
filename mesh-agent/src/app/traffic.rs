//! `GET /traffic`: requests by route and by pod.

use crate::admin::view::{PodTraffic, RouteTraffic, Tally, Traffic};
use crate::costs::Costs;
use crate::snapshot::Snapshot;
use crate::telemetry::{Metrics, Of, Tallied, graph};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) fn view(metrics: &Metrics, costs: &Costs, snapshot: &Snapshot, node: &str) -> Traffic {
    let mut all = metrics.tallies();
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let (mut routes, mut pods) = (Vec::new(), BTreeMap::<_, PodTraffic>::new());
    for (of, tallied) in all {
        match of {
            Of::Route { service, route } => routes.push(RouteTraffic {
                service: service.to_string(),
                route: route.to_string(),
                requests: tally(&tallied),
            }),
            Of::From(namespace, name) => pods.entry((namespace, name)).or_default().asked = tally(&tallied),
            Of::To(namespace, name) => pods.entry((namespace, name)).or_default().answered = tally(&tallied),
        }
    }
    for spent in costs.pods() {
        let Some(of) = spent.workload() else { continue };
        let pod = pods.entry((Arc::clone(&of.key.namespace), Arc::clone(&of.key.name))).or_default();
        pod.cpu_seconds += spent.cpu().as_secs_f64();
        pod.memory_bytes += spent.bytes();
    }
    let owners: HashMap<_, _> =
        snapshot.workloads().map(|of| ((&*of.key.namespace, &*of.key.name), &of.owner.name)).collect();
    let pods = pods.into_iter().map(|((namespace, name), traffic)| PodTraffic {
        pod: format!("{namespace}/{name}"),
        workload: owners.get(&(&*namespace, &*name)).map_or_else(String::new, |owner| owner.to_string()),
        ..traffic
    });
    Traffic { node: node.to_owned(), bounds_ms: graph::bounds_ms().to_vec(), routes, pods: pods.collect() }
}

fn tally(of: &Tallied) -> Tally {
    Tally { failures: of.failures, buckets: of.buckets.to_vec() }
}
