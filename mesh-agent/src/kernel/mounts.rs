//! Finds (or mounts) bpffs and cgroup2.

use super::KernelError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid machines.
pub fn cgroup2() -> Result<PathBuf, KernelError> {
    mounted("cgroup2").ok_or(KernelError::NoCgroup2)
}

/// Where bpffs is mounted; mounted at `/sys/fs/bpf` if it is nowhere.
pub fn bpffs() -> Result<PathBuf, KernelError> {
    if let Some(path) = mounted("bpf") {
        return Ok(path);
    }
    let path = PathBuf::from("/sys/fs/bpf");
    // The folder is there on every kernel with BPF; where sysfs is read-only, mounting is what fails.
    let mounted = rustix::mount::mount("bpf", &path, "bpf", rustix::mount::MountFlags::empty(), None);
    mounted.map_err(|e| KernelError::Bpffs { path: path.clone(), source: e.into() })?;
    Ok(path)
}

/// The calling thread's cgroup2 folder: the process's, unless the cgroup is threaded.
pub fn own_cgroup() -> Result<PathBuf, KernelError> {
    let own = PathBuf::from("/proc/thread-self/cgroup");
    let text = fs::read_to_string(&own).map_err(|source| KernelError::Cgroup { path: own, source })?;
    // cgroup2's line is `0::/path` (cgroups(7)).
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(KernelError::NoCgroup2)?;
    Ok(cgroup2()?.join(path.trim_start_matches('/')))
}

/// The id the kernel programs see: the folder's inode number.
pub(super) fn cgroup_id(path: &Path) -> Result<u64, KernelError> {
    fs::metadata(path).map(|meta| meta.ino()).map_err(|source| KernelError::Cgroup { path: path.to_owned(), source })
}

fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, fs_type) = (fields.next()?, fields.next()?, fields.next()?);
        (fs_type == kind).then(|| PathBuf::from(target))
    })
}
