//! What can go wrong between the agent and the kernel, with the likely cause.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cgroup2 is not mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoCgroup2,
    #[error("cannot mount bpffs at {path}: {source} (CAP_SYS_ADMIN is needed)")]
    Bpffs { path: PathBuf, source: io::Error },
    #[error("{path} is not a cgroup2 folder: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("cannot use pin folder {path}: {source}")]
    PinDir { path: PathBuf, source: io::Error },
    #[error("the embedded eBPF object does not load: {0} (CAP_BPF, CAP_NET_ADMIN and a kernel with BTF are needed)")]
    Object(#[from] aya::EbpfError),
    #[error("hook {hook} cannot be used: {why}")]
    Hook { hook: &'static str, why: String },
    #[error("map {name}: {source}")]
    Map { name: &'static str, source: aya::maps::MapError },
    #[error("cannot start the {name} thread: {source}")]
    Thread { name: &'static str, source: io::Error },
}
