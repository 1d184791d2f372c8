//! What one line is made of, as it becomes known.

use super::{Draft, Ended};
use crate::snapshot::cel::Expression;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, request};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// Values in the order of the format's names.
pub(super) type Values = SmallVec<[Option<HeaderValue>; 4]>;
/// The same where Istio's own formats want nothing.
pub(super) type Few = Vec<Option<HeaderValue>>;

/// A request or opaque connection while it lasts. Nothing in it is copied: it shares all with the request.
#[derive(Debug)]
pub struct Entry {
    pub(super) draft: Rc<Draft>,
    /// Which requests it is about, once they ended.
    filter: Option<Expression>,
    pub(super) kind: Kind,
    pub(super) started: SystemTime,
    pub(super) connection: u64,
    pub(super) client: SocketAddr,
    pub(super) scheme: Option<Scheme>,
    pub(super) path: Option<PathAndQuery>,
    pub(super) request: Values,
    pub(super) response: Few,
    pub(super) trailers: Few,
}

/// What it has in common with others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) local: SocketAddr,
    pub(super) server_name: Option<Arc<str>>,
    /// What was chosen, by Envoy's name ([`super::cluster`]).
    pub(super) cluster: Option<Rc<str>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) endpoint_local: Option<SocketAddr>,
    /// `None`: an opaque connection.
    pub(super) asked: Option<Asked>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) host: Host,
}

/// Whom a request asks, as it spells it.
#[derive(Clone, Debug)]
pub(super) enum Host {
    Authority(Authority),
    Field(HeaderValue),
    None,
}

/// The two ends of the connection that answered.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub endpoint: SocketAddr,
    /// The agent's.
    pub local: Option<SocketAddr>,
}

impl Entry {
    pub(super) fn new(
        draft: Rc<Draft>,
        client: SocketAddr,
        local: SocketAddr,
        connection: u64,
        started: SystemTime,
    ) -> Self {
        let (server_name, cluster, endpoint, endpoint_local, asked) = Default::default();
        Self {
            draft,
            started,
            filter: None,
            kind: Kind { local, server_name, cluster, endpoint, endpoint_local, asked },
            connection,
            client,
            scheme: None,
            path: None,
            request: Values::new(),
            response: Few::new(),
            trailers: Few::new(),
        }
    }

    /// The request as it came, and again as it goes to the endpoint: like Envoy, the log shows it after its rewrites.
    pub fn head(&mut self, parts: &request::Parts) {
        let host = match (parts.uri.authority(), parts.headers.get(HOST)) {
            (Some(authority), _) => Host::Authority(authority.clone()),
            (None, Some(host)) => Host::Field(host.clone()),
            (None, None) => Host::None,
        };
        self.kind.asked = Some(Asked { method: parts.method.clone(), version: parts.version, host });
        self.scheme = parts.uri.scheme().cloned();
        self.path = parts.uri.path_and_query().cloned();
        self.request = values(&self.draft.active.format.wanted.request, &parts.headers);
    }

    pub fn set_filter(&mut self, filter: Option<Expression>) {
        self.filter = filter;
    }

    pub(in crate::telemetry) fn filter(&self) -> Option<&Expression> {
        self.filter.as_ref()
    }

    pub fn server_name(&mut self, name: Option<&Arc<str>>) {
        self.kind.server_name = name.cloned();
    }

    /// `name`: as [`super::cluster`] makes it.
    pub fn cluster(&mut self, name: &Rc<str>) {
        self.kind.cluster = Some(Rc::clone(name));
    }

    /// An attempt begins; the last one counts.
    pub fn asks(&mut self, endpoint: SocketAddr) {
        self.kind.endpoint = Some(endpoint);
        self.kind.endpoint_local = None;
    }

    /// Of hedged attempts, the one that won.
    pub fn connected(&mut self, ends: Connected) {
        self.kind.endpoint = Some(ends.endpoint);
        self.kind.endpoint_local = ends.local;
    }

    /// The head of the response, whoever made it.
    pub fn answered(&mut self, headers: &HeaderMap) {
        self.response = values(&self.draft.active.format.wanted.response, headers);
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = values(&self.draft.active.format.wanted.trailers, trailers);
    }

    /// Writes the line.
    pub fn end(&self, ended: &Ended<'_>) {
        self.draft.line(self, ended);
    }
}

impl Kind {
    /// To be kept: it holds nothing of the buffer in which the request came.
    pub(super) fn kept(&self) -> Self {
        let mut kept = self.clone();
        if let Some(asked) = &mut kept.asked {
            asked.host = HeaderValue::from_bytes(asked.host.as_bytes()).map_or(Host::None, Host::Field);
        }
        kept
    }
}

impl Host {
    /// Empty where the request names none.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Authority(authority) => authority.as_str().as_bytes(),
            Self::Field(host) => host.as_bytes(),
            Self::None => b"",
        }
    }
}

/// By its spelling: to `Authority` upper and lower case are the same.
impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// One pass over what is there: each look-up would hash a name, and there are few of both.
fn values<V: FromIterator<Option<HeaderValue>> + AsMut<[Option<HeaderValue>]>>(
    names: &[HeaderName],
    headers: &HeaderMap,
) -> V {
    let mut values: V = names.iter().map(|_| None).collect();
    if !names.is_empty() {
        for (name, value) in headers {
            if let Some((_, place)) = names.iter().zip(values.as_mut()).find(|(wanted, _)| *wanted == name)
                && place.is_none()
            {
                *place = Some(value.clone());
            }
        }
    }
    values
}
