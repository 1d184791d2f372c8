//! Numbers about requests and connections.
//!
//! Place in the path: every exchange ends in one `Record`, every attempt that reached an endpoint in one `Served`, every
//! opaque connection in one `Passage`; metrics and the access log are views of them. Only user of the prometheus crate.
//! Invariant: recording takes no lock and allocates nothing once a series exists; the number of series is bounded, what
//! is beyond goes to series labelled `overflow`; those of workloads that have gone go too.

pub mod access_log;
mod attributes;
mod cells;
mod exposition;
mod external;
pub mod graph;
mod labels;
mod meter;
mod metrics;
mod passage;
mod record;
mod rules;
mod series;
mod served;
mod store;
mod tally;
pub mod tap;
pub mod trace;

pub use access_log::{AccessLog, Logger};
pub use attributes::Head;
pub use exposition::Format;
pub use external::{Buckets, External};
pub use labels::{Callee, Reporter, Who, canonical_revision, canonical_service};
pub use meter::{Meter, request_head, response_head};
pub use metrics::{ConnectionKind, Metrics, Trouble};
pub use passage::Passage;
pub use record::{DIRECT_RESPONSE, Record, VIA_UPSTREAM};
pub use rules::{LOG_PROVIDER, LogRule};
pub use series::{Moved, Recorder, Series};
pub use served::Served;
pub use store::{Family, MOST_SERIES};
pub use tally::{Of, Tallied};
