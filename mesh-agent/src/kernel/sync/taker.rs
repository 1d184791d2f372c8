//! Pure: who takes a connection, as the connect hooks are told: by the very plans that fill their maps.

use super::super::Mode;
use super::plan::{Terms, Want, plan_port, plan_ruled};
use super::reach::{Reach, is_restricted};
use crate::addr::OrigDst;
use crate::snapshot::{Client, Destination, Service, ServicePort, Snapshot};
use mesh_common::Addr;
use mesh_common::maps::FailurePolicy;

/// Who takes a connection that a captured pod makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taker {
    Agent,
    /// The kernel: it chooses the endpoint, by weight.
    Kernel,
    /// It goes where the app sends it, as if there were no mesh.
    Nobody,
}

/// Who takes a client's connection to an address while the agent lives.
pub fn taker(snapshot: &Snapshot, client: &Client<'_>, to: OrigDst) -> Taker {
    let reach = Reach::of(snapshot);
    let terms = Terms { snapshot, every: &reach.every, mode: Mode::Mesh, failure: FailurePolicy::Open };
    let planned = |service: &Service, port: &ServicePort| plan_port(service, port, &terms);
    let declared = match snapshot.destination(to) {
        Destination::Service(service, port) => Some((service, port)),
        Destination::Workload(_) => snapshot.headless_port(to),
        Destination::Unknown => None,
    };
    if let Some((service, port)) = declared {
        return match planned(&service, &port).map(|plan| plan.want) {
            Some(Want::Agent) => Taker::Agent,
            Some(Want::Endpoint { .. }) => Taker::Kernel,
            None => Taker::Nobody,
        };
    }
    // As `mesh_common::connect::decide` has it for what is not in SERVICES.
    let (any, addr) = (Addr::any(to.port()), Addr::from(to.addr()));
    let by_port = || {
        let mut ports = snapshot.services().filter(|s| s.by_host).flat_map(|s| s.ports.iter().map(move |p| (s, p)));
        let ruled = || plan_ruled(&terms).is_some_and(|plan| plan.addrs.contains(&any));
        ports.any(|(s, p)| p.port == to.port() && planned(s, p).is_some_and(|plan| plan.addrs.contains(&any)))
            || ruled()
    };
    let untouched = addr.is_local() || reach.pods.contains(&to.addr().ip());
    if !untouched && (is_restricted(snapshot, client) || by_port()) { Taker::Agent } else { Taker::Nobody }
}
