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

/// The process's own cgroup2 folder, as the mounted hierarchy names it.
///
/// In a cgroup namespace (a container's) `/proc` tells a path relative to it, while the node's hierarchy is mounted: then
/// the folder is looked for that lists this process.
pub fn own_cgroup() -> Result<PathBuf, KernelError> {
    let own = PathBuf::from("/proc/thread-self/cgroup");
    let text = fs::read_to_string(&own).map_err(|source| KernelError::Cgroup { path: own, source })?;
    // cgroup2's line is `0::/path` (cgroups(7)).
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(KernelError::NoCgroup2)?;
    let root = cgroup2()?;
    let told = root.join(path.trim_start_matches('/'));
    if path != "/" || lists_us(&root) {
        return Ok(told);
    }
    Ok(holder(&root, 0).unwrap_or(told))
}

/// The folder above all pods of this node: the kubelet's `kubepods` above this process, where it is in one; else the
/// hierarchy's root.
pub fn pods_cgroup() -> Result<PathBuf, KernelError> {
    let own = own_cgroup()?;
    let is_pods = |path: &&Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // The systemd driver repeats the parents' names: `kubepods-burstable.slice` is below `kubepods.slice`.
        name == "kubepods" || name.strip_suffix(".slice").is_some_and(|name| name.ends_with("kubepods"))
    };
    own.ancestors().find(is_pods).map_or_else(cgroup2, |path| Ok(path.to_owned()))
}

/// Deep enough for a pod's container in a nested cluster.
const MAX_DEPTH: usize = 12;

fn holder(folder: &Path, depth: usize) -> Option<PathBuf> {
    if lists_us(folder) {
        return Some(folder.to_owned());
    }
    let below = fs::read_dir(folder).ok().filter(|_| depth < MAX_DEPTH)?;
    let folders = below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.into_iter().find_map(|entry| holder(&entry.path(), depth + 1))
}

fn lists_us(folder: &Path) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|pids| pids.lines().any(|pid| pid == own))
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
