//! Compiled Services: addresses, ports, protocol, endpoints.

use super::route::Visibility;
use super::{Locality, Workload};
use crate::addr::EndpointAddr;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// `namespace/name` of a Service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The Service's DNS name (Kubernetes DNS specification §2.3).
    pub fn host(&self, cluster_domain: &str) -> String {
        format!("{}.{}.svc.{cluster_domain}", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Identity of one port of one Service, stable while both exist. Run-time state is keyed by it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct PortKey {
    pub service: ServiceName,
    pub port: u16,
}

impl PortKey {
    pub fn new(service: ServiceName, port: u16) -> Self {
        Self { service, port }
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// Identity of a cluster: a Service port, or the part of its endpoints that a DestinationRule's subset names. Ejections,
/// limits and pools are keyed by it, so that they survive a swap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct ClusterKey {
    pub port: PortKey,
    pub subset: Option<Arc<str>>,
}

impl ClusterKey {
    pub fn new(port: PortKey, subset: Option<Arc<str>>) -> Self {
        Self { port, subset }
    }
}

impl From<PortKey> for ClusterKey {
    fn from(port: PortKey) -> Self {
        Self { port, subset: None }
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subset {
            Some(subset) => write!(f, "{}/{subset}", self.port),
            None => self.port.fmt(f),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub name: ServiceName,
    /// `reviews.default.svc.cluster.local`
    pub host: Arc<str>,
    /// Cluster IPs, IPv4 and IPv6; empty for a headless Service.
    pub vips: Vec<IpAddr>,
    /// `clusterIP: None`: pods are dialled by their own addresses.
    pub headless: bool,
    pub ports: Vec<Arc<ServicePort>>,
    pub export: Visibility,
    pub resolution: Resolution,
    /// Only its host is known: clients find addresses of it by themselves (ServiceEntry without `addresses`).
    pub by_host: bool,
    /// `MESH_EXTERNAL`: never mTLS, no workload behind its endpoints.
    pub external: bool,
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Names that its endpoints' certificates may bear (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Vec<Arc<str>>,
}

/// How a Service's endpoints are found (Kubernetes, ServiceEntry `resolution`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// They are listed: Kubernetes' Services, `STATIC`.
    Static,
    /// `NONE`: where the client's connection goes already.
    None,
    /// `DNS`: all addresses of the names.
    Dns,
    /// `DNS_ROUND_ROBIN`: the first address at each new connection.
    DnsRoundRobin,
    /// `DYNAMIC_DNS`: the name that the request gives.
    DynamicDns,
}

/// `spec.trafficDistribution` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficDistribution {
    /// `PreferClose`, `PreferSameZone`
    SameZone,
    SameNode,
}

impl Service {
    /// A Kubernetes Service without addresses and ports.
    pub fn new(name: ServiceName, host: &str) -> Self {
        Self {
            name,
            host: host.into(),
            vips: Vec::new(),
            headless: false,
            ports: Vec::new(),
            export: Visibility::Public,
            resolution: Resolution::Static,
            by_host: false,
            external: false,
            traffic_distribution: None,
            subject_alt_names: Vec::new(),
        }
    }

    /// Every virtual address and port.
    pub fn addrs(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.vips.iter().flat_map(|vip| self.ports.iter().map(|port| (*vip, port.port)))
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    pub key: PortKey,
    pub port: u16,
    /// Empty where the only port has no name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub lb: LbPolicy,
    pub endpoints: Arc<EndpointSet>,
}

/// Endpoints of one port in a fixed order (by address), so that equal configurations compile to equal sets.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub addr: EndpointAddr,
    /// ≥ 1. Traffic is shared in proportion.
    pub weight: u32,
    pub health: EndpointHealth,
    pub workload: Option<Arc<Workload>>,
    pub locality: Locality,
}

impl Endpoint {
    /// Whether a subset with these labels has it: by its workload's, and by those that Istio gives an endpoint for its place.
    pub fn bears(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        labels.iter().all(|(key, wanted)| {
            let place = self.locality.label(key).filter(|place| !place.is_empty());
            place.or_else(|| self.workload.as_ref()?.labels.get(key)) == Some(wanted)
        })
    }
}

/// EndpointSlice conditions (`ready`, `serving`, `terminating`) as one choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    Ready,
    /// Terminating but still serving: used only when no endpoint is ready (as kube-proxy does, KEP-1669).
    Draining,
    NotReady,
}

/// What a port speaks, from `appProtocol`, else the port's name (Istio's protocol selection), else `Detect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 when the client starts with its preface.
    Http,
    /// HTTP/2 with prior knowledge (`http2`, `kubernetes.io/h2c`).
    Http2,
    Grpc,
    GrpcWeb,
    /// `https`, `tls`: opaque bytes that begin with a ClientHello.
    Tls,
    /// `tcp`, `mongo`, `redis`, `mysql`: opaque; bytes may come from the server first.
    Tcp,
    /// Undeclared: the first bytes from either side decide.
    Detect,
}

impl Protocol {
    /// The kernel may choose the endpoint: no L7 work is possible or wanted.
    pub fn is_opaque(self) -> bool {
        matches!(self, Self::Tls | Self::Tcp)
    }

    /// Declared flow-controlled protocols, for which socket redirection (sk_msg) is on by default (DESIGN §5).
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// How one endpoint of a set is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LbPolicy {
    /// The agent's default, chosen by `cargo xtask bench balance`.
    Default,
    RoundRobin,
    LeastRequest,
    PeakEwma,
    Random,
}
