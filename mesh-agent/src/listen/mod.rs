//! Accepting connections.
//!
//! Place in the path: the first stage. A listener is either *captured* (inside an enrolled pod's network namespace,
//! fed by the connect hook; the original destination comes from the flow table) or *explicit* (an address given on the
//! command line for one service port). Invariant: an accept loop ends only when it is told to; running out of file
//! descriptors costs the connection that came then and nothing else.

mod accept;
pub mod tls;

pub use accept::{Limits, OpenGuard, run};

use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::connect::{Dialer, OpenSocket};
use crate::connections::Captured;
use crate::snapshot::{Client, PortKey, Workload};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Finds what the app asked for: (the app's end, the listener's end) → the flow.
pub type FindFlow = Arc<dyn Fn(ClientAddr, SocketAddr) -> Option<Flow> + Send + Sync>;

/// What the kernel knows of a captured connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub orig: OrigDst,
    /// Bytes that it took past TCP/IP so far, both ways.
    pub redirected_bytes: u64,
}

/// Where a listener's connections come from and go to.
#[derive(Clone)]
pub enum Origin {
    Captured(Arc<Pod>),
    Explicit(PortKey),
    /// A gateway pod's own port.
    Gateway(Arc<Pod>, u16),
}

/// An enrolled pod of this node.
pub struct Pod {
    /// Its labels and addresses may change while its listeners are open.
    pub workload: ArcSwap<Workload>,
    /// Its network namespace as the kernel knows it; never 0.
    pub cookie: u64,
    pub find_flow: FindFlow,
    pub open_socket: OpenSocket,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Non-blocking; not yet registered with any runtime.
    pub stream: std::net::TcpStream,
    pub client: ClientAddr,
    pub wants: Wants,
    pub source: Source,
    pub guard: OpenGuard,
}

/// What the connection was made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wants {
    Original(OrigDst),
    Port(PortKey),
    /// Whatever the gateway that the source is says about its port, and the ClientHello's name.
    Gateway {
        port: u16,
        sni: Option<Arc<str>>,
    },
}

/// Who made the connection.
#[derive(Clone, Debug)]
pub struct Source {
    /// Known for captured connections.
    pub workload: Option<Arc<Workload>>,
    /// Netns cookie; 0 for explicit listeners.
    pub cookie: u64,
    pub dialer: Dialer,
}

impl Source {
    /// In the terms of the snapshot. A client at an explicit listener is taken for one of the Service's own namespace.
    pub fn client<'a>(&'a self, wants: &'a Wants) -> Client<'a> {
        static NO_LABELS: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        match (&self.workload, wants) {
            (Some(workload), _) => Client { namespace: &workload.key.namespace, labels: &workload.labels },
            (None, Wants::Port(key)) => Client { namespace: &key.service.namespace, labels: &NO_LABELS },
            (None, Wants::Original(_) | Wants::Gateway { .. }) => Client { namespace: "", labels: &NO_LABELS },
        }
    }
}

impl Wants {
    /// The address that the client asked for, where it was captured.
    pub fn original(&self) -> Option<EndpointAddr> {
        match self {
            Self::Original(dst) => Some(EndpointAddr::new(dst.addr())),
            Self::Port(_) | Self::Gateway { .. } => None,
        }
    }

    /// Port of the Service, or of the gateway.
    pub fn port(&self) -> u16 {
        match self {
            Self::Original(dst) => dst.port(),
            Self::Port(key) => key.port,
            Self::Gateway { port, .. } => *port,
        }
    }
}

impl Pod {
    fn source(&self) -> Source {
        Source {
            workload: Some(self.workload.load_full()),
            cookie: self.cookie,
            dialer: Dialer::Pod(Arc::clone(&self.open_socket)),
        }
    }
}

impl Origin {
    /// `None` where a captured connection has no flow entry: nobody knows where it wants to go.
    fn resolve(&self, client: ClientAddr, local: SocketAddr) -> Option<(Wants, Source)> {
        match self {
            Self::Explicit(key) => {
                let source = Source { workload: None, cookie: 0, dialer: Dialer::Host };
                Some((Wants::Port(key.clone()), source))
            }
            Self::Captured(pod) => {
                let flow = (pod.find_flow)(client, local)?;
                Some((Wants::Original(flow.orig), pod.source()))
            }
            Self::Gateway(pod, port) => Some((Wants::Gateway { port: *port, sni: None }, pod.source())),
        }
    }
}

impl Origin {
    /// To be asked of a connection that was resolved; `None`: the kernel did not bring it here.
    fn captured(&self, client: ClientAddr, local: SocketAddr) -> Option<Captured> {
        let Self::Captured(pod) = self else { return None };
        let find_flow = Arc::clone(&pod.find_flow);
        Some(Captured(Box::new(move || Some(find_flow(client, local)?.redirected_bytes))))
    }
}

impl From<OrigDst> for Flow {
    /// One that TCP carries.
    fn from(orig: OrigDst) -> Self {
        Self { orig, redirected_bytes: 0 }
    }
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("workload", &self.workload.load().key)
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}
