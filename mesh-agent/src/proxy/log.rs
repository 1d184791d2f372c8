//! What the access log is told of connections.

use super::Conn;
use crate::error::{Failure, Flags};
use crate::listen::Wants;
use crate::snapshot::{PortKey, ServiceName};
use crate::telemetry::access_log::{Ended, Entry};
use crate::time::Nanos;
use http::request;
use std::sync::Arc;

impl Conn {
    /// A request's; `None` while the access log is off.
    pub(super) fn entry(&self, head: &request::Parts) -> Option<Box<Entry>> {
        let mut entry = self.begin()?;
        entry.head(head);
        Some(entry)
    }

    /// An opaque connection's, from its beginning. `sni`: the name in its ClientHello.
    pub(super) fn opaque_entry(&self, sni: Option<&Arc<str>>) -> Option<Box<Entry>> {
        let mut entry = self.begin()?;
        entry.began(Nanos::now().since(self.shown.opened));
        if sni.is_some() {
            entry.server_name(sni);
        }
        Some(entry)
    }

    /// An opaque connection that goes nowhere.
    pub(super) fn log_refused(&self, failure: &Failure, sni: Option<&Arc<str>>) {
        let Some(mut entry) = self.opaque_entry(sni) else { return };
        if *failure == Failure::UnknownHost {
            let name = failure.destination();
            let port = PortKey::new(ServiceName::new("", name), self.wants.port());
            entry.cluster(&name.into(), &port.into());
        }
        entry.end(&self.ended_by(failure));
    }

    pub(super) fn ended_by(&self, failure: &Failure) -> Ended {
        let (flags, details) = failure.closed();
        self.ended(flags, details)
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

    fn begin(&self) -> Option<Box<Entry>> {
        let mut entry = self.ctx.log.entry(self.ends.client, self.ends.local, self.shown.id)?;
        if let Wants::Gateway { sni, .. } = &self.wants {
            entry.server_name(sni.as_ref());
        }
        Some(entry)
    }
}
