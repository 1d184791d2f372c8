//! Where objects come from: files today, a Kubernetes API server later. Each source emits [`Changes`](super::Changes)
//! and its current diagnostics; none of them knows what the objects mean.

mod file;
mod tree;
mod watch;

pub use file::{FileSource, Scan};
pub use watch::Watch;
