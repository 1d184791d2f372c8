//! What one exchange was.

use super::Series;
use super::access_log::{Ended, Entry};
use crate::error::{Flag, Flags, Outcome};
use crate::grpc;
use crate::time::Nanos;
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::time::Duration;

/// Filled in while the exchange runs, written to the metrics once: when it is dropped.
#[derive(Debug)]
pub struct Record {
    /// Where it is counted; changes while attempts go to other endpoints.
    pub series: Rc<Series>,
    pub started: Nanos,
    /// HTTP status sent to the client; `None` where none was.
    pub code: Option<StatusCode>,
    /// `grpc-status`, from the head (trailers-only) or the trailers.
    pub grpc_status: Option<u8>,
    /// Several where several things happened: `URX,UF`.
    pub flags: Flags,
    pub outcome: Outcome,
    /// Body bytes from the endpoint.
    pub received: u64,
    /// 1 where the first endpoint answered.
    pub attempts: u32,
    /// The exchange came to an end of its own; a record dropped without is a client that left.
    pub complete: bool,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`; empty while there are none.
    pub details: &'static str,
    /// `None` while the access log is off.
    pub log: Option<Box<Entry>>,
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
            started,
            code: None,
            grpc_status: None,
            flags: Flags::NONE,
            outcome: Outcome::Answered,
            received: 0,
            attempts: 0,
            complete: false,
            details: "",
            log: None,
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

    fn ended(&self, log: &Entry) -> Ended {
        let answered = log.answered_after(self.started);
        let reset = self.details.strip_prefix("upstream_reset_before_response_started").filter(|_| answered.is_some());
        Ended {
            code: self.code.map(|code| code.as_u16()),
            grpc_status: self.grpc_status,
            flags: self.flags,
            details: match reset {
                Some(how) => format!("upstream_reset_after_response_started{how}").into(),
                None => self.details.into(),
            },
            duration: self.elapsed(),
            answered,
            received: log.received().get(),
            sent: self.received + log.own_bytes(),
            attempts: self.attempts,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.abandoned();
        }
        self.series.finish(self);
        if let Some(log) = &self.log {
            log.end(&self.ended(log));
        }
    }
}
