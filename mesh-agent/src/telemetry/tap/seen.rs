//! One request as whoever looks is told of it.

use super::{Head, Tapped};
use crate::connections::KernelFacts;
use crate::snapshot::Workload;
use crate::telemetry::access_log::Ended;
use crate::telemetry::{Callee, Series};
use http::Version;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Longest path and host that are told, bytes: what waits for whoever looks is bounded.
const LONGEST: usize = 1024;

/// A request or opaque connection that has ended.
#[derive(Clone, Debug)]
pub struct Seen {
    pub began: SystemTime,
    /// `None`: a client that is no pod of the mesh.
    pub source: Option<Arc<Workload>>,
    pub callee: Arc<Callee>,
    pub destination: Option<Arc<Workload>>,
    /// `None`: none was asked.
    pub endpoint: Option<SocketAddr>,
    pub client: SocketAddr,
    /// As `mesh-agent connections` numbers them.
    pub connection: u64,
    /// `None`: the kernel did not bring it here.
    pub kernel: Option<KernelFacts>,
    /// `None`: an opaque connection.
    pub asked: Option<Asked>,
    pub grpc: bool,
    pub trace: Option<u128>,
    pub ended: Ended<'static>,
}

/// A request as the client sent it, cut where it is very long.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub host: String,
    pub path: String,
    pub version: &'static str,
}

impl Seen {
    pub(super) fn new(of: &Tapped, series: &Series, grpc: bool, trace: Option<u128>, ended: &Ended<'_>) -> Self {
        let now = SystemTime::now();
        Self {
            began: now.checked_sub(ended.duration).unwrap_or(now),
            source: series.caller.clone(),
            callee: Arc::clone(&series.callee),
            destination: series.endpoint.clone(),
            endpoint: of.endpoint,
            client: of.client,
            connection: of.connection.id,
            kernel: of.connection.kernel(),
            asked: of.head.as_ref().map(Asked::of),
            grpc,
            trace,
            ended: ended.kept(),
        }
    }
}

impl Asked {
    fn of(head: &Head) -> Self {
        let host = match head.uri.authority() {
            Some(authority) => authority.as_str(),
            None => head.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        Self {
            method: cut(head.method.as_str()),
            host: cut(host),
            path: cut(head.uri.path_and_query().map_or("/", |target| target.as_str())),
            version: match head.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
        }
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default().to_owned()
}
