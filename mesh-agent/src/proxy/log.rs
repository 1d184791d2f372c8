//! What the access log is told of connections.

use super::Conn;
use crate::error::Flags;
use crate::listen::Wants;
use crate::telemetry::access_log::{Ended, Entry};
use crate::time::Nanos;
use http::request;

impl Conn {
    /// `None` while the access log is off. `head`: `None` for an opaque connection.
    pub(super) fn entry(&self, head: Option<&request::Parts>) -> Option<Box<Entry>> {
        let mut entry = self.ctx.log.entry(self.ends.client, self.ends.local, self.shown.id)?;
        if let Wants::Gateway { sni, .. } = &self.wants {
            entry.server_name(sni.as_ref());
        }
        head.into_iter().for_each(|parts| entry.head(parts));
        Some(entry)
    }

    /// The end of an opaque connection.
    pub(super) fn ended(&self, flags: Flags, details: &'static str) -> Ended {
        Ended {
            code: None,
            grpc_status: None,
            flags,
            details: details.into(),
            duration: Nanos::now().since(self.shown.opened),
            answered: None,
            received: self.shown.received(),
            sent: self.shown.sent(),
            attempts: 1,
        }
    }
}
