//! What one exchange was.

use super::access_log::{Ended, Entry, How};
use super::attributes::Attributes;
use super::series::Request;
use super::tap::Tapped;
use super::trace::Trace;
use super::{Head, Meter, Series, Served};
use crate::error::{Flag, Flags, Outcome};
use crate::grpc;
use crate::net::TcpInfo;
use crate::snapshot::route::Route;
use crate::time::Nanos;
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One request, from its head to the end of its response. Filled in while it runs and read once, when it is dropped:
/// metrics, the access log's line, and whatever else tells of requests, are views of it.
#[derive(Debug)]
pub struct Record {
    /// Who asks whom: caller, Service, and, once an endpoint was chosen, its workload. Changes with the attempts.
    pub series: Rc<Series>,
    /// `None` where none took it.
    pub route: Option<Arc<Route>>,
    /// When the request's head was there.
    pub started: Nanos,
    /// When the first endpoint was chosen: until then the time was the agent's (limits, faults).
    pub asked: Option<Nanos>,
    /// When the head of the answer that counts was there; from `asked` on the time was the endpoints'.
    pub answered: Option<Nanos>,
    pub grpc: bool,
    /// Bytes of the request's head.
    pub request_head: u64,
    /// The request's body; `None` where it has none.
    pub request: Option<Rc<Meter>>,
    pub response_head: u64,
    /// The response's body, whoever made it.
    pub response: Meter,
    /// HTTP status sent to the client; `None` where none was.
    pub code: Option<StatusCode>,
    /// `grpc-status`, from the head (trailers-only) or the trailers.
    pub grpc_status: Option<u8>,
    /// Several where several things happened: `URX,UF`.
    pub flags: Flags,
    pub outcome: Outcome,
    /// 1 where the first endpoint answered.
    pub attempts: u32,
    /// The exchange came to an end of its own; a record dropped without is a client that left.
    pub complete: bool,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`; empty while there are none.
    pub details: &'static str,
    /// The attempt whose answer counts.
    pub served: Option<Served>,
    /// `None`: the request is not recorded.
    pub trace: Option<Box<Trace>>,
    /// The request's head, where an expression of a Telemetry object may ask for it.
    pub head: Option<Box<Head>>,
    /// `None` while the access log is off.
    pub log: Option<Entry>,
    /// `None`: nobody looks.
    pub tap: Option<Box<Tapped>>,
}

/// An endpoint answered (Envoy's name for it).
pub const VIA_UPSTREAM: &str = "via_upstream";
/// A route answered by itself.
pub const DIRECT_RESPONSE: &str = "direct_response";
const CLIENT_GONE: &str = "downstream_remote_disconnect";

impl Record {
    pub fn new(series: Rc<Series>, started: Nanos) -> Self {
        Self {
            series,
            route: None,
            started,
            asked: None,
            answered: None,
            grpc: false,
            request_head: 0,
            request: None,
            response_head: 0,
            response: Meter::default(),
            code: None,
            grpc_status: None,
            flags: Flags::NONE,
            outcome: Outcome::Answered,
            attempts: 0,
            complete: false,
            details: "",
            served: None,
            trace: None,
            head: None,
            log: None,
            tap: None,
        }
    }

    /// Reads `grpc-status` (gRPC over HTTP/2, "Responses"); what is not a number below 256 is ignored.
    pub fn read_grpc_status(&mut self, fields: &HeaderMap) {
        if fields.contains_key(grpc::GRPC_STATUS) {
            self.grpc_status = grpc::status_in(fields);
        }
    }

    /// The client left before the end.
    pub fn abandoned(&mut self) {
        self.flags.insert(Flag::DC);
        self.outcome = Outcome::Local;
        self.details = CLIENT_GONE;
        self.complete = true;
    }

    /// Time since the request's head.
    pub fn elapsed(&self) -> Duration {
        Nanos::now().since(self.started)
    }

    /// From the request's head to the response's.
    pub fn answered_after(&self) -> Option<Duration> {
        Some(self.answered?.since(self.started))
    }

    /// What the endpoints took until the response's head, attempts that came to nothing included.
    pub fn upstream_time(&self) -> Option<Duration> {
        Some(self.answered?.since(self.asked?))
    }

    /// What the agent took before it asked: routes, limits, injected delays.
    pub fn agent_time(&self) -> Option<Duration> {
        Some(self.asked?.since(self.started))
    }

    /// Bytes of the request's body.
    pub fn received(&self) -> u64 {
        self.request.as_ref().map_or(0, |body| body.bytes())
    }

    fn counted(&self) -> Request {
        Request {
            code: (self.grpc, self.code, self.grpc_status, self.flags),
            duration: self.elapsed(),
            request_bytes: self.request_head + self.received(),
            response_bytes: self.response_head + self.response.bytes(),
            messages: [self.request.as_ref().map_or(0, |body| body.messages()), self.response.messages()],
            trace: self.trace.as_ref().map(|trace| trace.id().get()),
        }
    }

    fn ended(&self, duration: Duration, tcp: Option<TcpInfo>) -> Ended<'_> {
        let answered = self.answered_after();
        let reset = self.details.strip_prefix("upstream_reset_before_response_started").filter(|_| answered.is_some());
        let how = How {
            code: self.code.map(|code| code.as_u16()),
            grpc_status: self.grpc_status,
            flags: self.flags,
            details: match reset {
                Some(how) => format!("upstream_reset_after_response_started{how}").into(),
                None => self.details.into(),
            },
            attempts: self.attempts,
            route: self.route.as_ref().map(|route| (&*route.name).into()),
        };
        Ended {
            how,
            duration,
            answered,
            upstream: self.upstream_time(),
            received: self.received(),
            sent: self.response.bytes(),
            tcp,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.abandoned();
        }
        let counted = self.counted();
        let served = self.served.take();
        let looked_at = self.tap.is_some() || self.trace.is_some();
        let tcp = served.as_ref().filter(|_| looked_at).and_then(Served::tcp);
        let attributes = Attributes::of(self);
        self.series.count(&counted, Some(&attributes));
        self.series.tally(self.route.as_ref(), &counted);
        if let Some(served) = served {
            served.passed_on(&counted, &attributes);
        }
        let passes = |log: &Entry| log.filter().is_none_or(|filter| attributes.pass(filter));
        let logged = self.log.as_ref().is_some_and(passes);
        if let Some(log) = self.log.take()
            && logged
        {
            log.end(&self.ended(counted.duration, tcp));
        }
        if let Some(tap) = &self.tap {
            tap.end(&self.series, self.grpc, counted.trace, &self.ended(counted.duration, tcp));
        }
        if let Some(trace) = self.trace.take() {
            trace.end(self, tcp, Nanos::now());
        }
    }
}

#[cfg(test)]
mod tests {
    /// It moves from stage to stage with each request.
    #[test]
    fn a_record_stays_small() {
        assert!(size_of::<super::Record>() <= 416, "{}", size_of::<super::Record>());
    }
}
