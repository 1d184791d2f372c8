//! A finished span, whatever it is exported as.

use super::context::{SpanId, TraceId};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// One side's view of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    /// `None`: the trace begins here.
    pub parent: Option<SpanId>,
    pub kind: Kind,
    /// `reviews.default.svc.cluster.local:9080/*`
    pub name: String,
    pub started: SystemTime,
    pub duration: Duration,
    /// Whose view it is: `productpage.default`.
    pub service: Cow<'static, str>,
    /// That service's end of the connection.
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub failed: bool,
    pub debug: bool,
    /// `tracestate` as it came.
    pub state: String,
    pub tags: Vec<Tag>,
}

pub type Tag = (Cow<'static, str>, Cow<'static, str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of whoever asked.
    Client,
    /// Of whoever answered.
    Server,
}
