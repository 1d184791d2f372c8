//! Where objects come from: files, or a Kubernetes API server. Each source emits [`Changes`](super::Changes)
//! and its current diagnostics; none of them knows what the objects mean.

mod file;
mod kube;
mod tree;
mod watch;

pub use self::kube::{Health, KubeError, KubeOptions, KubeSource};
pub use file::{FileSource, Scan};
pub use watch::Watch;
