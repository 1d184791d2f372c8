//! A chained CNI plugin that holds a new pod's start until its node's agent has it, so that the pod's first connection
//! is in the mesh.
//!
//! ```text
//! kubelet ─► container runtime ─► other plugins ─► ADD ─► wire: pod + network namespace ─► agent: in | outside | late
//! ```
//! Place: a program of its own, because the runtime starts it on the node for each pod; the agent puts it there, chains it
//! in and takes it away. The network is the other plugins': it changes nothing, and prints the result it was given.
//! Invariants: it waits for a bounded time; while the agent is away the failure policy decides, and what began without the
//! agent leaves a note, of which the agent tells the pod when it is back.

pub mod call;
pub mod note;
mod plugin;
pub mod wire;

pub use plugin::run;

/// The program's name in the CNI folder, and `type` in the configuration.
pub const TYPE: &str = "undermesh-cni";
