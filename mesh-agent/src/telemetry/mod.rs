//! One typed record per request or connection in; Prometheus text out.
//!
//! Place in the path: the end of every request and connection. Invariants: a request costs atomic additions only (no
//! lock, no allocation, no string) once its combination of codes has been seen; label strings are made at scrape time;
//! the number of series has a hard budget, and what does not fit is counted in a visible overflow series.

mod histogram;
mod labels;
mod metrics;
mod record;
mod render;
mod series;

pub use labels::{ConnectError, Flag, ResponseFlags, RetryReason};
pub use metrics::{DEFAULT_BUDGET, EndpointMetrics, Metrics, PortMetrics};
pub use record::Record;
pub use render::{Row, RowKind};
