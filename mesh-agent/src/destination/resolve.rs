//! What a request's host and a connection's original destination mean together. Pure: `explain` calls it too.

use crate::addr::OrigDst;
use crate::listen::Wants;
use crate::snapshot::route::VirtualHost;
use crate::snapshot::{self, Client, OutboundPolicy, PortKey, Service, ServicePort, Snapshot, Workload, host_names};
use std::sync::Arc;

/// What the configuration knows about where a request is headed.
#[derive(Debug)]
pub struct Resolved {
    /// Rules somebody wrote for the host; none: straight to `to`.
    pub rules: Option<Arc<VirtualHost>>,
    pub to: To,
}

/// Where a request goes that no rule sends elsewhere.
#[derive(Debug)]
pub enum To {
    Service(Arc<Service>, Arc<ServicePort>),
    /// A pod dialled by its own address; with the headless Service's port that speaks for it.
    Pod(Arc<Workload>, OrigDst, Option<(Arc<Service>, Arc<ServicePort>)>),
    /// Only rules know the host: no Service has it.
    Nowhere,
    /// Nobody declared it: where the app asked to go.
    Unknown(OrigDst),
    /// Nobody declared it, and the client may reach only what is declared.
    Blocked,
    /// An explicit listener's port that was removed.
    Gone(PortKey),
}

/// What a connection was made for, before anything was read from it.
pub fn connection(snapshot: &Snapshot, client: &Client<'_>, wants: &Wants) -> To {
    match wants {
        Wants::Port(key) => match snapshot.port(key) {
            Some((service, port)) => To::Service(service, port),
            None => To::Gone(key.clone()),
        },
        // Only its routes know.
        Wants::Gateway { .. } => To::Nowhere,
        Wants::Original(dst) => match snapshot.destination(*dst) {
            snapshot::Destination::Service(service, port) if in_scope(snapshot, client, &service, port.port) => {
                To::Service(service, port)
            }
            snapshot::Destination::Workload(workload) => {
                let headless = snapshot.headless_port(*dst);
                To::Pod(workload, *dst, headless)
            }
            snapshot::Destination::Service(..) | snapshot::Destination::Unknown => match outbound(snapshot, client) {
                OutboundPolicy::AllowAny => To::Unknown(*dst),
                OutboundPolicy::RegistryOnly => To::Blocked,
            },
        },
    }
}

/// What a request for `authority` means on a connection made for `wants`.
///
/// The host decides, as in Istio; a host that nobody declared, an address, or a pod's own name mean what the connection
/// was made for.
pub fn request(snapshot: &Snapshot, client: &Client<'_>, wants: &Wants, authority: &str) -> Resolved {
    if let Wants::Original(dst) = wants {
        let mesh = snapshot.mesh();
        for name in host_names(authority, client.namespace, &mesh.cluster_domain) {
            let port = dst.port();
            let service = snapshot.service_by_host(client, &name).filter(|s| in_scope(snapshot, client, s, port));
            let served = service.and_then(|s| Some((s, s.ports.iter().find(|p| p.port == port)?)));
            let rules = snapshot.virtual_host(client, &name, port);
            match (served, rules) {
                (Some((service, port)), rules) => {
                    return Resolved { rules: rules.cloned(), to: To::Service(Arc::clone(service), Arc::clone(port)) };
                }
                // Hosts that only rules know are served on port 80 (SEMANTICS §3).
                (None, Some(rules)) if service.is_none() && port == 80 => {
                    return Resolved { rules: Some(Arc::clone(rules)), to: To::Nowhere };
                }
                (None, _) => {}
            }
        }
    }
    let to = connection(snapshot, client, wants);
    let rules = match &to {
        To::Service(service, _) | To::Pod(_, _, Some((service, _))) => {
            snapshot.virtual_host(client, &service.host, wants.port())
        }
        To::Pod(..) | To::Nowhere | To::Unknown(_) | To::Blocked | To::Gone(_) => None,
    };
    Resolved { rules: rules.cloned(), to }
}

/// Whether the client's Sidecar lets it see a Service.
fn in_scope(snapshot: &Snapshot, client: &Client<'_>, service: &Service, port: u16) -> bool {
    let scope = snapshot.egress(client, &snapshot.mesh().root_namespace);
    scope.is_none_or(|scope| scope.allows(&service.name.namespace, &service.host, port))
}

fn outbound(snapshot: &Snapshot, client: &Client<'_>) -> OutboundPolicy {
    let mesh = snapshot.mesh();
    let scope = snapshot.egress(client, &mesh.root_namespace);
    scope.and_then(|scope| scope.outbound).unwrap_or(mesh.outbound)
}
