//! What one opaque connection was.

use super::Series;
use super::access_log::{Ended, Entry, How};
use super::series::Moved;
use super::tap::Tapped;
use crate::connect::Link;
use crate::connections::Connection;
use crate::error::{Flag, Flags};
use crate::time::Nanos;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One connection whose bytes pass the agent. Counted as opened when it is made, as closed when it is dropped.
#[derive(Debug)]
pub struct Passage {
    series: Rc<Series>,
    /// Its bytes.
    shown: Arc<Connection>,
    told: Moved,
    pub flags: Flags,
    pub details: &'static str,
    /// `None` while the access log is off.
    pub log: Option<Entry>,
    /// `None`: nobody looks.
    pub tap: Option<Box<Tapped>>,
    /// The connection to the endpoint, where there is one.
    pub link: Option<Arc<Link>>,
}

impl Passage {
    /// How often a connection that goes on is counted (SEMANTICS §10).
    pub const REPORT: Duration = Duration::from_secs(5);

    pub fn new(series: Rc<Series>, shown: Arc<Connection>, log: Option<Entry>, tap: Option<Box<Tapped>>) -> Self {
        series.moved(&Moved { opened: 1, ..Moved::default() });
        // Dropped before its end was told: the agent ends.
        Self { series, shown, told: Moved::default(), flags: Flag::DC.into(), details: "", log, tap, link: None }
    }

    /// Counts what moved since the last call.
    pub fn report(&mut self) {
        let moved = self.since(Flags::NONE, 0);
        self.series.moved(&moved);
    }

    fn since(&mut self, flags: Flags, closed: u64) -> Moved {
        let (sent, received) = (self.shown.sent(), self.shown.received());
        let former = std::mem::replace(&mut self.told, Moved { sent, received, ..Moved::default() });
        let (sent, received) = (sent.wrapping_sub(former.sent), received.wrapping_sub(former.received));
        Moved { opened: 0, closed, sent, received, flags }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let moved = self.since(self.flags, 1);
        self.series.moved(&moved);
        // Expressions ask for what connections do not have: they do not pass.
        let log = self.log.take().filter(|log| log.filter().is_none());
        if log.is_none() && self.tap.is_none() {
            return;
        }
        let how = How {
            code: None,
            grpc_status: None,
            flags: self.flags,
            details: self.details.into(),
            attempts: 1,
            route: None,
        };
        let ended = Ended {
            how,
            duration: Nanos::now().since(self.shown.opened),
            answered: None,
            upstream: None,
            received: self.shown.received(),
            sent: self.shown.sent(),
            tcp: self.link.as_ref().filter(|_| self.tap.is_some()).map(|link| link.tcp()),
        };
        if let Some(log) = log {
            log.end(&ended);
        }
        if let Some(tap) = &self.tap {
            tap.end(&self.series, false, None, &ended);
        }
    }
}
