//! What one line is made of, as it becomes known.

use super::{Active, Ended, Logger};
use crate::snapshot::ClusterKey;
use crate::snapshot::cel::Expression;
use crate::time::Nanos;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// Values in the order of the format's names.
pub(super) type Values = SmallVec<[Option<HeaderValue>; 4]>;
/// The same where Istio's own formats want nothing.
pub(super) type Few = Vec<Option<HeaderValue>>;

/// A request or opaque connection while it lasts.
#[derive(Debug)]
pub struct Entry {
    logger: Rc<Logger>,
    pub(super) active: Arc<Active>,
    pub(super) started: SystemTime,
    pub(super) connection: u64,
    /// Which requests it is about, once they ended.
    filter: Option<Expression>,
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
    /// `None`: an opaque connection.
    pub(super) head: Option<Head>,
    pub(super) server_name: Option<Arc<str>>,
    /// Host and cluster that were chosen.
    pub(super) cluster: Option<(Arc<str>, ClusterKey)>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) endpoint_local: Option<SocketAddr>,
    pub(super) response: Few,
    pub(super) trailers: Few,
}

/// A request's head. Everything in it is shared with the request, nothing copied.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    /// Where the target names no authority.
    pub(super) host: Option<HeaderValue>,
    pub(super) fields: Values,
}

/// The two ends of the connection that answered: travels with a response, only while the log is on.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub endpoint: SocketAddr,
    /// The agent's.
    pub local: Option<SocketAddr>,
}

impl Entry {
    pub(super) fn new(
        logger: Rc<Logger>,
        active: Arc<Active>,
        client: SocketAddr,
        local: SocketAddr,
        connection: u64,
        started: Nanos,
    ) -> Self {
        Self {
            started: logger.wall.get().at(started),
            logger,
            active,
            connection,
            filter: None,
            client,
            local,
            head: None,
            server_name: None,
            cluster: None,
            endpoint: None,
            endpoint_local: None,
            response: Few::new(),
            trailers: Few::new(),
        }
    }

    /// The request as it came, and again as it goes to the endpoint: like Envoy, the log shows it after its rewrites.
    pub fn head(&mut self, parts: &request::Parts) {
        self.head = Some(Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            host: if parts.uri.authority().is_none() { parts.headers.get(HOST).cloned() } else { None },
            fields: values(&self.active.format.wanted.request, &parts.headers),
        });
    }

    pub fn set_filter(&mut self, filter: Option<Expression>) {
        self.filter = filter;
    }

    pub(in crate::telemetry) fn filter(&self) -> Option<&Expression> {
        self.filter.as_ref()
    }

    pub fn server_name(&mut self, name: Option<&Arc<str>>) {
        self.server_name = name.cloned();
    }

    /// `host`: of the Service, or what stands for one.
    pub fn cluster(&mut self, host: &Arc<str>, key: &ClusterKey) {
        self.cluster = Some((Arc::clone(host), key.clone()));
    }

    /// An attempt begins; the last one counts.
    pub fn asks(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
        self.endpoint_local = None;
    }

    /// Of hedged attempts, the one that won.
    pub fn connected(&mut self, ends: Connected) {
        self.endpoint = Some(ends.endpoint);
        self.endpoint_local = ends.local;
    }

    /// The head of the response, whoever made it.
    pub fn answered(&mut self, headers: &HeaderMap) {
        self.response = values(&self.active.format.wanted.response, headers);
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = values(&self.active.format.wanted.trailers, trailers);
    }

    /// Writes the line.
    pub fn end(&self, ended: &Ended) {
        self.logger.line(self, ended);
    }
}

fn values<V: FromIterator<Option<HeaderValue>>>(names: &[HeaderName], headers: &HeaderMap) -> V {
    names.iter().map(|name| headers.get(name).cloned()).collect()
}
