//! The control path: raw objects → typed → compiled → published.
//!
//! ```text
//! source ─► Changes ─► compile ─► Update ─► publish ─► Arc<Snapshot> + kernel
//!    └── Diagnostics ──┴─► log, admin
//! ```
//! Invariant: one bad object never takes down its neighbours. It is dropped (or its last good version stays), it is
//! named in a [`Diagnostic`], and the rest applies.

pub mod compile;
pub mod diagnostic;
pub mod publish;
pub mod resolve;
pub mod resource;
pub mod source;

pub use diagnostic::{Code, Diagnostic, Severity};
pub use resource::{Kind, ObjectKey, Provenance, Resource};

use std::net::IpAddr;
use std::sync::Arc;

/// What became different in the sources since the last batch.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// New objects and new contents of known ones. Where one key stands twice, the later wins.
    pub upserts: Vec<Arc<Resource>>,
    pub deletes: Vec<ObjectKey>,
    /// Objects whose content is the same but which now stand elsewhere (another line, another file).
    pub moved: Vec<(ObjectKey, Provenance)>,
    /// Addresses of names that ServiceEntries have resolved by DNS.
    pub resolved: Vec<(Arc<str>, Vec<IpAddr>)>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty() && self.moved.is_empty() && self.resolved.is_empty()
    }
}
