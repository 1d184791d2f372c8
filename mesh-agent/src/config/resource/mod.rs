//! Own typed structs of the Kubernetes objects we read; no client library's types.
//!
//! Place in the path: `source` finds documents, [`parse`] makes [`Resource`]s of them, `compile` reads those.
//! Invariant: a `Resource` is well typed, but nothing in it has been checked against anything else.

mod core;
mod discovery;
pub(crate) mod fields;
pub mod gateway_api;
pub mod istio;
mod kinds;
mod locate;
pub mod mesh_config;
pub mod parse;
pub mod request_policy;
pub(crate) mod schema;
mod secret;
mod workloads;

pub use core::{
    ContainerPort, Labels, Meta, Namespace, Node, ObjectReference, OwnerReference, Pod, PodCondition, PodIp, PodSpec,
    PodStatus, Service, ServicePort, ServiceSpec, TargetPort,
};
pub use discovery::{AddressType, EndpointSlice, Endpoints, SliceEndpoint};
pub use fields::doc_page;
pub use kinds::Kind;
pub use secret::{Secret, SecretError, Sensitive};
pub use workloads::Controller;

use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One object as some source holds it.
#[derive(Clone, Debug)]
pub struct Resource {
    pub key: ObjectKey,
    pub meta: Meta,
    pub object: Object,
    pub place: Provenance,
    /// Of the object's content; equal contents have equal hashes wherever they stand.
    pub hash: u64,
}

/// The kinds this version reads.
#[derive(Clone, Debug)]
pub enum Object {
    Namespace(Namespace),
    Node(Node),
    Pod(Box<Pod>),
    Service(Box<Service>),
    Endpoints(Endpoints),
    EndpointSlice(EndpointSlice),
    /// Deployment, StatefulSet, ReplicaSet, DaemonSet, Job: read by the lab, which plays their controllers.
    Controller(Box<Controller>),
    VirtualService(Box<istio::virtual_service::VirtualService>),
    DestinationRule(Box<istio::destination_rule::DestinationRule>),
    ServiceEntry(Box<istio::service_entry::ServiceEntry>),
    WorkloadEntry(Box<istio::service_entry::WorkloadEntry>),
    Sidecar(Box<istio::sidecar::Sidecar>),
    Telemetry(Box<istio::telemetry::Telemetry>),
    IstioGateway(Box<istio::gateway::Gateway>),
    ConfigMap(Box<mesh_config::ConfigMap>),
    RequestPolicy(Box<request_policy::RequestPolicy>),
    GatewayClass(gateway_api::GatewayClass),
    Gateway(Box<gateway_api::Gateway>),
    HttpRoute(Box<gateway_api::HttpRoute>),
    GrpcRoute(Box<gateway_api::GrpcRoute>),
    ReferenceGrant(gateway_api::ReferenceGrant),
    Secret(Secret),
}

/// Identity of an object in a source.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    pub file: Arc<Path>,
    /// 1-based line of the object's first line; 0 where it stands in no file ([`Provenance::api_server`]).
    pub line: u32,
    /// 0-based document in the file.
    pub document: u32,
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl Provenance {
    /// Of objects that an API server holds.
    pub fn api_server() -> Self {
        Self { file: Path::new("API server").into(), line: 0, document: 0 }
    }

    pub fn is_file(&self) -> bool {
        self.line > 0
    }
}

/// `Service shop/cart`, `Node worker-1`
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.is_file() { write!(f, ":{}", self.line) } else { Ok(()) }
    }
}
