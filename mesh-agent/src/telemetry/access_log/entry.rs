//! What one line is made of, as it becomes known.

use super::texts::{self, AUTHORITY, PATH, REQUEST, SCHEME, Texts};
use super::{Draft, Ended};
use crate::snapshot::cel::Expression;
use http::header::HOST;
use http::{HeaderMap, HeaderName, Method, Version, request};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// A request or opaque connection while it lasts.
#[derive(Debug)]
pub struct Entry {
    pub(super) draft: Rc<Draft>,
    pub(super) known: Box<Known>,
}

/// What is known of it so far, in memory that the next one uses again.
#[derive(Debug)]
pub(super) struct Known {
    /// Which requests it is about, once they ended.
    filter: Option<Expression>,
    pub(super) kind: Kind,
    /// Nanoseconds since 1970.
    pub(super) started: u64,
    pub(super) connection: u64,
    pub(super) client: SocketAddr,
    pub(super) texts: Texts,
}

/// What it has in common with others, but for whom a request asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) local: SocketAddr,
    pub(super) server_name: Option<Arc<str>>,
    /// What was chosen, by Envoy's name ([`super::cluster`]).
    pub(super) cluster: Option<Rc<str>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) endpoint_local: Option<SocketAddr>,
    /// `None`: an opaque connection.
    pub(super) asked: Option<(Method, Version)>,
}

/// The two ends of the connection that answered.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub endpoint: SocketAddr,
    /// The agent's.
    pub local: Option<SocketAddr>,
}

/// Who asks, over which connection, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) connection: u64,
    pub(super) started: u64,
}

impl Entry {
    pub(super) fn new(draft: Rc<Draft>, begun: Begun) -> Self {
        let known = match draft.spare() {
            Some(mut known) => {
                known.begin(begun);
                known
            }
            None => Box::new(Known::new(begun)),
        };
        Self { draft, known }
    }

    /// The request as it came, and again as it goes to the endpoint: like Envoy, the log shows it after its rewrites.
    pub fn head(&mut self, parts: &request::Parts) {
        let wanted = &self.draft.active.format.wanted;
        let Known { kind, texts, .. } = &mut *self.known;
        kind.asked = Some((parts.method.clone(), parts.version));
        texts.begin(texts::places(wanted));
        let (uri, host) = (&parts.uri, || parts.headers.get(HOST));
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        if let Some(authority) = authority.or_else(|| Some(host()?.as_bytes())) {
            texts.put(AUTHORITY, authority);
        }
        if let Some(path) = uri.path_and_query() {
            texts.put(PATH, path.as_str().as_bytes());
        }
        if let Some(scheme) = uri.scheme() {
            texts.put(SCHEME, scheme.as_str().as_bytes());
        }
        fields(texts, REQUEST, &wanted.request, &parts.headers);
    }

    pub fn set_filter(&mut self, filter: Option<Expression>) {
        self.known.filter = filter;
    }

    pub(in crate::telemetry) fn filter(&self) -> Option<&Expression> {
        self.known.filter.as_ref()
    }

    pub fn server_name(&mut self, name: Option<&Arc<str>>) {
        self.known.kind.server_name = name.cloned();
    }

    /// `name`: as [`super::cluster`] makes it.
    pub fn cluster(&mut self, name: &Rc<str>) {
        self.known.kind.cluster = Some(Rc::clone(name));
    }

    /// An attempt begins; the last one counts.
    pub fn asks(&mut self, endpoint: SocketAddr) {
        let kind = &mut self.known.kind;
        (kind.endpoint, kind.endpoint_local) = (Some(endpoint), None);
    }

    /// Of hedged attempts, the one that won.
    pub fn connected(&mut self, ends: Connected) {
        let kind = &mut self.known.kind;
        (kind.endpoint, kind.endpoint_local) = (Some(ends.endpoint), ends.local);
    }

    /// The head of the response, whoever made it.
    pub fn answered(&mut self, headers: &HeaderMap) {
        let wanted = &self.draft.active.format.wanted;
        fields(&mut self.known.texts, texts::response(wanted), &wanted.response, headers);
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        let wanted = &self.draft.active.format.wanted;
        fields(&mut self.known.texts, texts::trailers(wanted), &wanted.trailers, trailers);
    }

    /// It will be a line.
    pub fn end(self, ended: &Ended<'_>) {
        let Self { draft, mut known } = self;
        draft.line(&known, ended);
        known.texts.clear();
        draft.keep(known);
    }
}

impl Known {
    fn new(begun: Begun) -> Self {
        let Begun { client, local, connection, started } = begun;
        Self { filter: None, kind: Kind::new(local), started, connection, client, texts: Texts::default() }
    }

    /// As a new one, in its memory; its texts are none.
    fn begin(&mut self, begun: Begun) {
        let Self { filter, kind, started, connection, client, .. } = self;
        *filter = None;
        *kind = Kind::new(begun.local);
        (*started, *connection, *client) = (begun.started, begun.connection, begun.client);
    }

    /// Whom a request asks, as it spells it; empty where it names none.
    pub(super) fn authority(&self) -> &[u8] {
        self.texts.view().get(AUTHORITY).unwrap_or_default()
    }
}

impl Kind {
    fn new(local: SocketAddr) -> Self {
        let (server_name, cluster, endpoint, endpoint_local, asked) = Default::default();
        Self { local, server_name, cluster, endpoint, endpoint_local, asked }
    }
}

/// One pass over what is there: each look-up would hash a name, and there are few of both. `from`: the first's place.
fn fields(texts: &mut Texts, from: usize, names: &[HeaderName], headers: &HeaderMap) {
    if !names.is_empty() {
        for (name, value) in headers {
            if let Some(at) = names.iter().position(|wanted| wanted == name) {
                texts.put(from + at, value.as_bytes());
            }
        }
    }
}
