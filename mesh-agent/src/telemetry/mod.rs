//! Numbers about requests and connections.
//!
//! Place in the path: every exchange ends in one `Record`. Only user of the prometheus crate. Invariant: recording
//! takes no lock and allocates nothing once a series exists; the number of series is bounded, what is beyond goes to
//! series labelled `overflow`; those of endpoints that have gone go too.

pub mod access_log;
mod external;
mod metrics;
mod peers;
mod record;
mod series;

pub use access_log::{AccessLog, Logger};
pub use external::External;
pub use metrics::{ConnectionKind, Metrics, Totals, Trouble};
pub use record::{DIRECT_RESPONSE, Record, VIA_UPSTREAM};
pub use series::{Recorder, Series, TcpSeries};
