//! What one exchange was.

use super::Series;
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
}

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
        }
    }

    /// Reads `grpc-status` (gRPC over HTTP/2, "Responses"); what is not a number below 256 is ignored.
    pub fn read_grpc_status(&mut self, fields: &HeaderMap) {
        if fields.contains_key(grpc::GRPC_STATUS) {
            self.grpc_status = grpc::status_in(fields);
        }
    }

    /// Time since the request's head.
    pub fn elapsed(&self) -> Duration {
        Nanos::now().since(self.started)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.flags.insert(Flag::DC);
            self.outcome = Outcome::Local;
        }
        self.series.finish(self);
    }
}
