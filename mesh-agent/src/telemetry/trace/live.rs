//! A recorded request while it lasts.

use super::context::{Decision, Ids, Place, SpanId, TRACESTATE, TraceId, inject};
use super::export::Exporter;
use super::span::{Kind, Span, Tag};
use super::tags::{self, Ended};
use crate::addr::EndpointAddr;
use crate::error::{Flag, Flags};
use crate::net::TcpInfo;
use crate::snapshot::tracing::Tracing;
use crate::snapshot::{ClusterKey, Enrolment, Workload};
use crate::telemetry::{Callee, Head, Record, canonical_service};
use crate::time::Nanos;
use http::{HeaderMap, Method, Uri, Version};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who asks, and what.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// `None`: a client of an explicit listener.
    pub workload: Option<&'a Arc<Workload>>,
    /// The workload is a gateway, its client a stranger.
    pub outside: bool,
    pub tls: bool,
    pub client: SocketAddr,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub version: Version,
}

/// A recorded request on its way. Its spans, and all their text, are made by the thread that sends them.
#[derive(Debug)]
pub struct Trace {
    exporter: Arc<Exporter>,
    settings: Arc<Tracing>,
    place: Place,
    /// `tracestate` as it came.
    state: String,
    caller: Option<Arc<Workload>>,
    /// As in [`Caller`].
    outside: bool,
    tls: bool,
    client: SocketAddr,
    head: Head,
    /// `cluster.local`
    domain: Arc<str>,
    operation: Option<String>,
    cluster: Option<(Arc<Callee>, ClusterKey)>,
    attempts: SmallVec<[Attempt; 1]>,
}

/// One endpoint's part.
#[derive(Debug)]
struct Attempt {
    /// Its server span: this agent acts for the endpoint too.
    id: Option<SpanId>,
    endpoint: EndpointAddr,
    workload: Option<Arc<Workload>>,
    begun: Nanos,
    /// `None`: it goes on, or its answer is what the client gets.
    ended: Option<Nanos>,
    code: u16,
    grpc: Option<u8>,
    flags: Flags,
}

/// What its record says of a request that is over.
struct Over {
    callee: Arc<Callee>,
    started: Nanos,
    now: Nanos,
    /// The same moment by the wall clock.
    wall: SystemTime,
    agent_time: Option<Duration>,
    code: u16,
    grpc: bool,
    grpc_status: Option<u8>,
    flags: Flags,
    sizes: [u64; 2],
    attempts: u32,
    tcp: Option<TcpInfo>,
}

impl Trace {
    pub(super) fn new(
        exporter: Arc<Exporter>,
        settings: &Arc<Tracing>,
        domain: &Arc<str>,
        place: Place,
        headers: &HeaderMap,
        caller: Caller<'_>,
    ) -> Self {
        let Caller { workload, outside, tls, client, method, uri, version } = caller;
        let state = headers.get(TRACESTATE).and_then(|state| state.to_str().ok()).unwrap_or_default();
        Self {
            exporter,
            place,
            // Never longer than 512 characters where somebody keeps to W3C Trace Context §3.3.1.5.
            state: state.get(..512).unwrap_or(state).to_owned(),
            caller: workload.cloned(),
            outside,
            tls,
            client,
            head: Head { method: method.clone(), uri: uri.clone(), version, fields: headers.clone() },
            settings: Arc::clone(settings),
            domain: Arc::clone(domain),
            operation: None,
            cluster: None,
            attempts: SmallVec::new(),
        }
    }

    pub fn id(&self) -> TraceId {
        self.place.ids.trace
    }

    /// Istio's name for what is asked: `reviews.default.svc.cluster.local:9080/*`.
    pub fn operation(&mut self, name: String) {
        self.operation = Some(name);
    }

    pub fn cluster(&mut self, callee: &Arc<Callee>, key: &ClusterKey) {
        self.cluster = Some((Arc::clone(callee), key.clone()));
    }

    /// An attempt begins: its endpoint is told who its parent is.
    pub fn asks(
        &mut self,
        endpoint: EndpointAddr,
        workload: Option<&Arc<Workload>>,
        headers: &mut HeaderMap,
        rng: &mut fastrand::Rng,
        now: Nanos,
    ) {
        // Whoever answered before was not good enough.
        for former in self.attempts.iter_mut().filter(|former| former.code != 0) {
            former.ended.get_or_insert(now);
        }
        let ours = workload.is_some_and(|workload| matches!(workload.enrolment, Enrolment::Enrolled { .. }));
        let Place { ids, parent, decision, formats } = self.place;
        let id = ours.then(|| SpanId::new(rng.u64(..))).flatten();
        match id {
            Some(id) => inject(headers, Ids { span: id, ..ids }, Some(ids.span), decision, formats),
            // Its endpoint was told of a span of its own.
            None if !self.attempts.is_empty() => inject(headers, ids, parent, decision, formats),
            None => {}
        }
        self.attempts.push(Attempt {
            id,
            endpoint,
            workload: workload.cloned(),
            begun: now,
            ended: None,
            code: 0,
            grpc: None,
            // Until something else is known, we are who left.
            flags: Flag::DC.into(),
        });
    }

    /// An attempt has an answer.
    pub fn answered(&mut self, endpoint: EndpointAddr, code: u16, grpc: Option<u8>) {
        if let Some(attempt) = self.last(endpoint) {
            (attempt.code, attempt.grpc, attempt.flags) = (code, grpc, Flags::NONE);
        }
    }

    /// An attempt has none. `sent`: the endpoint may have seen the request.
    pub fn failed(&mut self, endpoint: EndpointAddr, flags: Flags, sent: bool, now: Nanos) {
        if let Some(attempt) = self.last(endpoint) {
            (attempt.flags, attempt.ended) = (flags, Some(now));
            attempt.id = attempt.id.filter(|_| sent);
        }
    }

    fn last(&mut self, endpoint: EndpointAddr) -> Option<&mut Attempt> {
        self.attempts.iter_mut().rev().find(|attempt| attempt.endpoint == endpoint)
    }

    /// The request is over: its spans go out. `tcp`: of the connection to the endpoint whose answer counts.
    pub(in crate::telemetry) fn end(self: Box<Self>, record: &Record, tcp: Option<TcpInfo>, now: Nanos) {
        let over = Over {
            callee: Arc::clone(&record.series.callee),
            started: record.started,
            now,
            wall: SystemTime::now(),
            agent_time: record.agent_time(),
            code: record.code.map_or(0, |code| code.as_u16()),
            grpc: record.grpc,
            grpc_status: record.grpc_status,
            flags: record.flags,
            sizes: [record.received(), record.response.bytes()],
            attempts: record.attempts,
            tcp,
        };
        let count = 1 + self.attempts.iter().filter(|attempt| attempt.id.is_some()).count();
        let exporter = Arc::clone(&self.exporter);
        exporter.take(count, move |spans| self.spans(&over, spans));
    }

    fn spans(&self, over: &Over, spans: &mut Vec<Span>) {
        let at = |time: Nanos| over.wall.checked_sub(over.now.since(time)).unwrap_or(over.wall);
        let caller = Caller {
            workload: self.caller.as_ref(),
            outside: self.outside,
            tls: self.tls,
            client: self.client,
            method: &self.head.method,
            uri: &self.head.uri,
            version: self.head.version,
        };
        let common = tags::request(&self.settings, &self.head.fields, caller);
        for attempt in &self.attempts {
            let Some(id) = attempt.id else { continue };
            let until = attempt.ended.unwrap_or(over.now);
            let ended = Ended {
                code: attempt.code,
                // Of the answer that counts, what its trailers said.
                grpc: if attempt.ended.is_none() { over.grpc_status.or(attempt.grpc) } else { attempt.grpc }
                    .filter(|_| over.grpc),
                flags: attempt.flags,
                sizes: if attempt.ended.is_none() { over.sizes } else { [over.sizes[0], 0] },
            };
            let mut tags = common.clone();
            if let Some(workload) = &attempt.workload {
                tags::workload(&self.settings, workload, false, &self.domain, &mut tags);
            }
            let inbound = format!("inbound|{}||", attempt.endpoint.addr().port());
            tags.extend([
                ("upstream_cluster".into(), inbound.clone().into()),
                ("upstream_cluster.name".into(), inbound.into()),
            ]);
            spans.push(Span {
                parent: Some(self.place.ids.span),
                kind: Kind::Server,
                name: self.server_name(over),
                started: at(attempt.begun),
                duration: until.since(attempt.begun),
                service: service(attempt.workload.as_deref()),
                local: Some(attempt.endpoint.addr()),
                peer: Some(self.client),
                ..self.span(id, &ended, tags)
            });
        }
        let ended = Ended {
            code: over.code,
            grpc: over.grpc_status.filter(|_| over.grpc),
            flags: over.flags,
            sizes: over.sizes,
        };
        // The caller's own, then the request's.
        let mut tags = Vec::new();
        if let Some(workload) = &self.caller {
            tags::workload(&self.settings, workload, self.outside, &self.domain, &mut tags);
        }
        tags.extend(common);
        if let Some((callee, key)) = &self.cluster {
            let cluster = tags::cluster(callee.cluster(), callee.undeclared, key);
            tags.extend([
                ("upstream_cluster".into(), cluster.clone().into()),
                ("upstream_cluster.name".into(), cluster.into()),
            ]);
        }
        if let Some(last) = self.attempts.last() {
            tags.push(("upstream_address".into(), last.endpoint.to_string().into()));
        }
        if let Some(time) = over.agent_time {
            tags.push(("undermesh.agent_time_us".into(), time.as_micros().to_string().into()));
        }
        if let Some(tcp) = over.tcp {
            tags.extend([
                ("undermesh.rtt_us".into(), tcp.srtt_us.to_string().into()),
                ("undermesh.retransmits".into(), tcp.retransmits.to_string().into()),
            ]);
        }
        tags.push(("undermesh.attempts".into(), over.attempts.to_string().into()));
        spans.push(Span {
            parent: self.place.parent,
            kind: Kind::Client,
            name: self.operation.clone().unwrap_or_else(|| over.callee.host.to_string()),
            started: at(over.started),
            duration: over.now.since(over.started),
            service: service(self.caller.as_deref()),
            local: Some(SocketAddr::new(self.client.ip(), 0)),
            peer: self.attempts.last().map(|last| last.endpoint.addr()),
            ..self.span(self.place.ids.span, &ended, tags)
        });
    }

    /// What all spans of the request have in common.
    fn span(&self, id: SpanId, ended: &Ended, mut tags: Vec<Tag>) -> Span {
        ended.write(&mut tags);
        Span {
            trace: self.place.ids.trace,
            id,
            parent: None,
            kind: Kind::Client,
            name: String::new(),
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            service: Cow::Borrowed(""),
            local: None,
            peer: None,
            failed: ended.is_failure(),
            debug: self.place.decision == Decision::Debug,
            state: self.state.clone(),
            tags,
        }
    }

    /// Istio: an inbound route is the Service's and its port's, whatever rule led there.
    fn server_name(&self, over: &Over) -> String {
        match &self.cluster {
            Some((callee, key)) => format!("{}:{}/*", callee.cluster(), key.port.port),
            None => over.callee.host.to_string(),
        }
    }
}

/// Istio's `APP_LABEL_AND_NAMESPACE`: `productpage.default`.
fn service(workload: Option<&Workload>) -> Cow<'static, str> {
    match workload {
        Some(workload) => format!("{}.{}", canonical_service(workload), workload.key.namespace).into(),
        None => "unknown".into(),
    }
}
