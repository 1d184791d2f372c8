//! Where a client's connection goes before the mesh sees it: what DNS would say of a host.

use super::question::{Asked, Question, Wrong};
use crate::snapshot::{Client, EndpointHealth, Service, Snapshot, as_ip, host_names};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Of TEST-NET-1 (RFC 5737): stands for what only the world's DNS knows.
pub(super) const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(super) struct Dialled {
    pub(super) address: SocketAddr,
    pub(super) notes: Vec<String>,
}

/// # Errors
/// Nothing says which port is meant.
pub(super) fn dial(
    snapshot: &Snapshot,
    client: &Client<'_>,
    asked: &Asked,
    question: &Question,
) -> Result<Dialled, Wrong> {
    let mut notes = Vec::new();
    let service = service(snapshot, client, &asked.host);
    let port = match (asked.port, service.map(|service| &service.ports[..])) {
        (Some(port), _) => port,
        (None, Some([only])) => {
            notes.push(format!("no port was given: {} is the only one of {}", only.port, only.key.service));
            only.port
        }
        (None, _) if asked.speaks == super::question::Speaks::Tcp => {
            return Err(Wrong(format!("which port of {}? write tcp://{}:PORT", asked.host, asked.host)));
        }
        (None, _) => {
            notes.push("no port was given: 80 is HTTP's".into());
            80
        }
    };
    let ip = question.address.or_else(|| as_ip(&asked.host)).or_else(|| service.and_then(address));
    if ip.is_none() && question.gateway.is_none() {
        notes.push(match service {
            Some(service) => format!("{} has no address yet; {SOMEWHERE} stands for it", service.name),
            None => format!("no object gives {} an address; {SOMEWHERE} stands for what DNS says", asked.host),
        });
    }
    Ok(Dialled { address: SocketAddr::new(ip.unwrap_or(SOMEWHERE), port), notes })
}

/// The Service that DNS knows under a host: visible to the client if one is, else any, since DNS knows no exportTo.
pub(super) fn service<'s>(snapshot: &'s Snapshot, client: &Client<'_>, host: &str) -> Option<&'s Arc<Service>> {
    let names = host_names(host, client.namespace, &snapshot.mesh().cluster_domain);
    let seen = names.iter().find_map(|name| snapshot.service_by_host(client, name));
    seen.or_else(|| names.iter().find_map(|name| snapshot.services().find(|service| *service.host == **name)))
}

/// A cluster IP, or the first pod of a headless Service.
fn address(service: &Arc<Service>) -> Option<IpAddr> {
    let pods = || service.ports.iter().flat_map(|port| &port.endpoints.endpoints);
    let ready = || pods().find(|endpoint| endpoint.health == EndpointHealth::Ready).or_else(|| pods().next());
    service.vips.first().copied().or_else(|| ready().filter(|_| service.headless).map(|endpoint| endpoint.addr.ip()))
}
