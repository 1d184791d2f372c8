//! What a request's host and a connection's original destination mean together. Pure: `explain` calls it too.

use crate::addr::OrigDst;
use crate::listen::Wants;
use crate::route::l4::Rule;
use crate::route::{self, Facts};
use crate::snapshot::route::{MESH, VirtualHost};
use crate::snapshot::{
    self, Client, L4Host, OutboundPolicy, PortKey, Protocol, RULED_PORT, Service, ServicePort, Snapshot, Workload,
    host_names,
};
use std::net::IpAddr;
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
            snapshot::Destination::Workload(workload) => match snapshot.headless_port(*dst) {
                // A pod's own address is nobody's declaration.
                None if outbound(snapshot, client) == OutboundPolicy::RegistryOnly => To::Blocked,
                headless => To::Pod(workload, *dst, headless),
            },
            snapshot::Destination::Service(..) | snapshot::Destination::Unknown => undeclared(snapshot, client, *dst),
        },
    }
}

/// What becomes of a connection whose bytes are not looked into.
#[derive(Debug)]
pub struct Opaque<'s> {
    /// Who speaks about its host.
    pub rules: Option<&'s Arc<L4Host>>,
    /// The rule that takes it, if one does.
    pub rule: Option<Rule<'s>>,
    /// `tcp` rules hold for its port.
    pub by_tcp: bool,
    /// Where it goes without one.
    pub to: To,
}

/// What a connection whose bytes are not looked into means. `sni`: the name in its ClientHello, lower case.
///
/// `tls` rules are for connections with a name; `tcp` rules for ports that are neither declared HTTP nor TLS
/// (SEMANTICS §4). A host without an address of its own is known by that name.
pub fn opaque<'s>(snapshot: &'s Snapshot, client: &Client<'_>, wants: &Wants, sni: Option<&str>) -> Opaque<'s> {
    let mut to = connection(snapshot, client, wants);
    if let (To::Unknown(_) | To::Blocked, Wants::Original(original)) = (&to, wants) {
        let port = original.port();
        let named = sni.and_then(|sni| by_name(snapshot, client, sni, port));
        if let Some((service, port)) = named.or_else(|| by_port(snapshot, client, port)) {
            to = To::Service(service, port);
        }
    }
    let by_tcp = !matches!(protocol(&to), Some(protocol) if protocol != Protocol::Tcp && protocol != Protocol::Detect);
    let facts = Facts { port: wants.port(), client: *client, gateway: MESH };
    let address: Option<IpAddr> = wants.original().map(|original| original.addr().ip());
    let rules = rules(snapshot, client, wants, &to, sni);
    let rule = rules.and_then(|host| {
        let routes = [&*host.routes];
        let tls = sni.and_then(|sni| route::l4::tls(routes, &facts, address, sni)).map(Rule::Tls);
        tls.or_else(|| route::l4::tcp(routes, &facts, address).filter(|_| by_tcp).map(Rule::Tcp))
    });
    Opaque { rules, rule, by_tcp, to }
}

/// Whether it takes a ClientHello's name to know where a TLS connection goes.
pub fn asks_for_name(snapshot: &Snapshot, client: &Client<'_>, wants: &Wants) -> bool {
    match connection(snapshot, client, wants) {
        To::Unknown(_) | To::Blocked => true,
        to => rules(snapshot, client, wants, &to, None).is_some_and(|host| !host.routes.tls.is_empty()),
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
                (None, Some(rules)) if service.is_none() && port == RULED_PORT && snapshot.serves_strangers(rules) => {
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

/// Nobody declared the address, or the client may not see who has it.
fn undeclared(snapshot: &Snapshot, client: &Client<'_>, dst: OrigDst) -> To {
    // Where HTTP or TLS could come too, their names are read first.
    if !snapshot.speaks_http(dst.port())
        && !snapshot.speaks_named_tls(dst.port())
        && let Some((service, port)) = by_port(snapshot, client, dst.port())
    {
        return To::Service(service, port);
    }
    match outbound(snapshot, client) {
        OutboundPolicy::AllowAny => To::Unknown(dst),
        OutboundPolicy::RegistryOnly => To::Blocked,
    }
}

/// The Service without address that a ClientHello names (SEMANTICS §8: "TLS by SNI").
fn by_name(snapshot: &Snapshot, client: &Client<'_>, sni: &str, port: u16) -> Option<(Arc<Service>, Arc<ServicePort>)> {
    let service = snapshot.service_by_host(client, sni).filter(|s| s.by_host && in_scope(snapshot, client, s, port))?;
    let port = service.ports.iter().find(|p| p.port == port)?;
    Some((Arc::clone(service), Arc::clone(port)))
}

/// The Service without address that has a TCP port (SEMANTICS §8: "TCP without addresses matches by port only").
fn by_port(snapshot: &Snapshot, client: &Client<'_>, port: u16) -> Option<(Arc<Service>, Arc<ServicePort>)> {
    let seen =
        |s: &Service| s.export.visible_to(&s.name.namespace, client.namespace) && in_scope(snapshot, client, s, port);
    let (service, port) = snapshot.bare_port(port).find(|(service, _)| seen(service))?;
    Some((Arc::clone(service), Arc::clone(port)))
}

/// Who speaks about the connection's host: the Service's, else the name that the client gave.
fn rules<'s>(
    snapshot: &'s Snapshot,
    client: &Client<'_>,
    wants: &Wants,
    to: &To,
    sni: Option<&str>,
) -> Option<&'s Arc<L4Host>> {
    let host = match to {
        To::Service(service, _) | To::Pod(_, _, Some((service, _))) => &*service.host,
        To::Unknown(_) | To::Blocked => sni?,
        To::Pod(..) | To::Nowhere | To::Gone(_) => return None,
    };
    snapshot.l4_host(client, host, wants.port())
}

fn protocol(to: &To) -> Option<Protocol> {
    match to {
        To::Service(_, port) | To::Pod(_, _, Some((_, port))) => Some(port.protocol),
        To::Pod(..) | To::Nowhere | To::Unknown(_) | To::Blocked | To::Gone(_) => None,
    }
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
