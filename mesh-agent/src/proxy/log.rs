//! What the access log, and whoever looks at what passes, are told of connections.

use super::Conn;
use crate::error::Failure;
use crate::listen::Wants;
use crate::snapshot::{PortKey, ServiceName};
use crate::telemetry::access_log::{self, Entry};
use crate::telemetry::tap::Tapped;
use crate::telemetry::{Callee, Passage};
use crate::time::Nanos;
use http::request;
use std::sync::Arc;

impl Conn {
    /// A request's; `None` while the access log is off.
    pub(super) fn entry(&self, head: &request::Parts, started: Nanos) -> Option<Entry> {
        let mut entry = self.begin(started)?;
        entry.head(head);
        Some(entry)
    }

    /// Of a request that somebody may want to see as it came.
    pub(super) fn tapped(&self, head: &request::Parts) -> Option<Box<Tapped>> {
        self.ctx.looker.request(self.source.workload.as_ref(), head, self.ends.client, &self.shown)
    }

    /// An opaque connection that somebody may want to see.
    pub(super) fn tapped_opaque(&self) -> Option<Box<Tapped>> {
        self.ctx.looker.connection(self.source.workload.as_ref(), self.ends.client, &self.shown)
    }

    /// An opaque connection's, from its beginning. `sni`: the name in its ClientHello.
    pub(super) fn opaque_entry(&self, sni: Option<&Arc<str>>) -> Option<Entry> {
        let mut entry = self.begin(self.shown.opened)?;
        if sni.is_some() {
            entry.server_name(sni);
        }
        Some(entry)
    }

    /// An opaque connection that goes nowhere.
    pub(super) fn refused(&self, failure: &Failure, sni: Option<&Arc<str>>) {
        let name = failure.destination();
        let mut log = self.opaque_entry(sni);
        if let Some(entry) = &mut log
            && *failure == Failure::UnknownHost
        {
            let port = PortKey::new(ServiceName::new("", name), self.wants.port());
            entry.cluster(&access_log::cluster(name, &port.into()));
        }
        self.ended_by(failure, &Callee::undeclared(name, None).into(), log);
    }

    /// Counts and logs an opaque connection that had no endpoint.
    pub(super) fn ended_by(&self, failure: &Failure, callee: &Arc<Callee>, log: Option<Entry>) {
        let series = self.ctx.recorder.series(self.source.workload.as_ref(), callee, None, || None);
        let mut passage = Passage::new(series, Arc::clone(&self.shown), log, self.tapped_opaque());
        (passage.flags, passage.details) = failure.closed();
    }

    fn begin(&self, started: Nanos) -> Option<Entry> {
        if !self.ctx.log.is_on() {
            return None;
        }
        let rule = self.ctx.recorder.log_rule(self.source.workload.as_ref());
        if !rule.on.unwrap_or_else(|| self.ctx.log.is_default()) {
            return None;
        }
        let mut entry = self.ctx.log.entry(self.ends.client, self.ends.local, self.shown.id, started)?;
        entry.set_filter(rule.filter);
        if let Wants::Gateway { sni, .. } = &self.wants {
            entry.server_name(sni.as_ref());
        }
        Some(entry)
    }
}
