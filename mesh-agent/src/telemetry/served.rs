//! One attempt of a request, as its endpoint saw it.

use super::access_log::Connected;
use super::attributes::Attributes;
use super::series::Request;
use super::{Meter, Series, response_head};
use crate::addr::EndpointAddr;
use crate::balance::ActiveRequest;
use crate::connect::Link;
use crate::error::{Failure, Flag, Flags};
use crate::grpc;
use crate::net::TcpInfo;
use crate::time::Nanos;
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::sync::Arc;

/// What the endpoint's own sidecar would have counted (`reporter="destination"`): each attempt that reached it, also
/// those whose answer nobody waited for. Counted when it is dropped, and once.
#[derive(Debug)]
pub struct Served {
    series: Rc<Series>,
    active: ActiveRequest,
    begun: Nanos,
    grpc: bool,
    request_head: u64,
    request: Option<Rc<Meter>>,
    /// A byte of the request may have reached the endpoint.
    sent: bool,
    code: Option<StatusCode>,
    grpc_status: Option<u8>,
    flags: Flags,
    response_head: u64,
    /// As the client got it, where it did.
    whole: Option<Request>,
    /// For the endpoint's own totals: it is to blame.
    failed: bool,
    /// Somebody wants to know which connection it took.
    watched: bool,
    over: Option<(Arc<Link>, EndpointAddr)>,
}

impl Served {
    pub fn new(series: &Rc<Series>, active: ActiveRequest, begun: Nanos, grpc: bool) -> Self {
        Self {
            series: Rc::clone(series),
            active,
            begun,
            grpc,
            request_head: 0,
            request: None,
            sent: false,
            code: None,
            grpc_status: None,
            // Until something else is known, we are who left.
            flags: Flag::DC.into(),
            response_head: 0,
            whole: None,
            failed: false,
            watched: false,
            over: None,
        }
    }

    /// Its connection will be asked for.
    pub fn watch(&mut self) {
        self.watched = true;
    }

    /// The connection that it takes, and where it was dialled.
    pub fn over(&mut self, link: &Arc<Link>, to: EndpointAddr) {
        if self.watched {
            self.over = Some((Arc::clone(link), to));
        }
    }

    /// The ends of its connection, if it was watched.
    pub fn connected(&self) -> Option<Connected> {
        let (link, to) = self.over.as_ref()?;
        Some(Connected { endpoint: to.addr(), local: link.local() })
    }

    /// What the kernel knows of its connection.
    pub(super) fn tcp(&self) -> Option<TcpInfo> {
        Some(self.over.as_ref()?.0.tcp())
    }

    /// What the endpoint is sent.
    pub fn request(&mut self, head: u64, body: Option<&Rc<Meter>>) {
        self.request_head = head;
        self.request = body.cloned();
    }

    pub fn active(&self) -> &ActiveRequest {
        &self.active
    }

    pub fn series(&self) -> &Rc<Series> {
        &self.series
    }

    /// From here on the endpoint may have seen it.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// The head of its answer is there.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.flags = Flags::NONE;
        self.code = Some(status);
        self.grpc_status = grpc::status_in(headers);
        self.response_head = response_head(headers);
        self.failed = status.is_server_error() || blames(self.grpc_status);
    }

    /// There is no answer. `sent`: whether the request may have been processed.
    pub fn failed(mut self, failure: &Failure, sent: bool) {
        self.sent &= sent;
        self.failed = !matches!(failure, Failure::ClientGone);
        self.flags = match failure {
            Failure::PerTryTimeout | Failure::Timeout => Flag::DC.into(),
            failure => failure.answer().flags,
        };
    }

    /// Its answer went to the client, to its end or not.
    pub(super) fn passed_on(mut self, request: &Request, attributes: &Attributes<'_>) {
        let (_, _, grpc_status, flags) = request.code;
        self.grpc_status = grpc_status.or(self.grpc_status);
        self.flags = if [Flag::DC, Flag::UT, Flag::SI].into_iter().any(|flag| flags.has(flag)) {
            Flag::DC.into()
        } else {
            // What the caller's side did before and around it is not the endpoint's.
            let own = [Flag::UC, Flag::UR, Flag::UPE].into_iter().filter(|flag| flags.has(*flag));
            own.fold(Flags::NONE, |all, flag| all | flag.into())
        };
        self.failed |= blames(self.grpc_status) || !(self.flags.is_empty() || self.flags.has(Flag::DC));
        self.whole = Some(*request);
        self.end(Some(attributes));
    }

    /// Counts it, once.
    fn end(&mut self, attributes: Option<&Attributes<'_>>) {
        if self.sent && self.series.is_served() {
            self.series.count_served(&self.counted(), attributes);
        }
        self.sent = false;
    }

    fn counted(&self) -> Request {
        let mut counted = self.whole.unwrap_or_else(|| Request {
            response_bytes: self.response_head,
            messages: [self.request.as_ref().map_or(0, |body| body.messages()), 0],
            ..Request::default()
        });
        counted.code = (self.grpc, self.code, self.grpc_status, self.flags);
        counted.duration = Nanos::now().since(self.begun);
        counted.request_bytes = self.request_head + self.request.as_ref().map_or(0, |body| body.bytes());
        counted
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.active.state().count(self.failed);
        self.end(None);
    }
}

/// INTERNAL, UNAVAILABLE, DATA_LOSS.
fn blames(grpc_status: Option<u8>) -> bool {
    matches!(grpc_status, Some(13..=15))
}
