//! Pure: what of the configuration concerns the kernel's side of every pod or every Service.

use crate::snapshot::policy::TrafficPolicy;
use crate::snapshot::{Client, EgressScope, Enrolment, OutboundPolicy, Service, Snapshot, WorkloadKey};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Made anew when pods, Sidecars or what holds for the whole mesh changed. Costs what pods there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Captured pods that may reach only what is declared (`REGISTRY_ONLY`).
    pub(super) restricted: BTreeSet<WorkloadKey>,
    /// Addresses of captured pods.
    pub(super) pods: BTreeSet<IpAddr>,
    pub(super) every: Every,
}

/// What the plans of all Services depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Every {
    /// Sidecars of restricted pods, each once.
    scopes: Vec<Arc<EgressScope>>,
    /// Where no DestinationRule speaks.
    pub(super) policy: Arc<TrafficPolicy>,
}

impl Reach {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mesh = snapshot.mesh();
        let mut reach =
            Self { every: Every { policy: Arc::clone(&mesh.policy), ..Every::default() }, ..Self::default() };
        let captured = snapshot.workloads().filter(|w| matches!(w.enrolment, Enrolment::Enrolled { .. }));
        for workload in captured {
            reach.pods.extend(&workload.ips);
            let client = Client { namespace: &workload.key.namespace, labels: &workload.labels };
            if is_restricted(snapshot, &client) {
                reach.restricted.insert(workload.key.clone());
                reach.every.scopes.extend(snapshot.egress(&client, &mesh.root_namespace).cloned());
            }
        }
        let key = |scope: &Arc<EgressScope>| (Arc::clone(&scope.namespace), Arc::as_ptr(scope).addr());
        reach.every.scopes.sort_by_cached_key(key);
        reach.every.scopes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        reach
    }
}

/// Whether a client may reach only what is declared.
pub(super) fn is_restricted(snapshot: &Snapshot, client: &Client<'_>) -> bool {
    let mesh = snapshot.mesh();
    let scope = snapshot.egress(client, &mesh.root_namespace);
    scope.and_then(|scope| scope.outbound).unwrap_or(mesh.outbound) == OutboundPolicy::RegistryOnly
}

impl Every {
    /// Some pod of this node may not reach the Service's port: the agent has to tell its connections from others'.
    pub(super) fn withholds(&self, service: &Service, port: u16) -> bool {
        self.scopes.iter().any(|scope| !scope.allows(&service.name.namespace, &service.host, port))
    }
}
