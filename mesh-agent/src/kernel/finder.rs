//! Finds a pod's network namespace by the pod's UID, among the processes of the node.
//!
//! The kubelet names each pod's cgroup after its UID, with every driver and version of cgroups: `…/pod<uid>/…`
//! (cgroupfs), `…-pod<uid with underscores>.slice/…` (systemd). A pod's namespace is that of its oldest process (the
//! sandbox's), so that a pod which makes namespaces of its own is still found right. Needs the node's PIDs (`hostPID`)
//! and CAP_SYS_PTRACE. A pod without a process yet is known by what its CNI plugin handed over, for a moment.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All processes are looked at this often at most, however many pods have none yet.
const SCAN: Duration = Duration::from_millis(250);

/// What a plugin handed over counts this long: the sandbox's process begins right after. After that the processes say
/// where the pod is, also when its sandbox is made anew.
pub(super) const HANDED: Duration = Duration::from_secs(10);

/// Length of a UID: a UUID, or the 32 digits of a static pod's.
const UID: std::ops::RangeInclusive<usize> = 32..=36;

#[derive(Debug)]
pub(super) struct Finder {
    proc: PathBuf,
    /// By pod UID: its oldest process at the last scan.
    holders: HashMap<Box<str>, Holder>,
    scanned: Option<Instant>,
    /// By pod UID: namespaces of sandboxes that are just made.
    handed: HashMap<Arc<str>, Handed>,
}

#[derive(Debug)]
struct Handed {
    netns: File,
    /// One pod may have several, one after the other.
    container: String,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    pid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Default for Finder {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), holders: HashMap::new(), scanned: None, handed: HashMap::new() }
    }
}

impl Finder {
    /// Opens the namespace of a pod. The process may end, and its number be another's, at any moment: what was opened
    /// counts only if the process is still the pod's afterwards.
    pub(super) fn open(&mut self, uid: &Arc<str>) -> io::Result<(PathBuf, File)> {
        self.expire();
        if let Some(Handed { netns, .. }) = self.handed.get(uid) {
            return Ok((PathBuf::from(format!("/proc/self/fd/{}", netns.as_raw_fd())), netns.try_clone()?));
        }
        if let Some(opened) = self.open_known(uid)? {
            return Ok(opened);
        }
        self.holders.remove(&**uid);
        if self.scanned.is_none_or(|at| at.elapsed() >= SCAN) {
            self.scan()?;
            self.scanned = Some(Instant::now());
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, "the pod has no process yet (or not any more)");
        self.open_known(uid)?.ok_or_else(none)
    }

    /// A sandbox is being made, and has no process yet.
    pub(super) fn hand_over(&mut self, uid: &Arc<str>, container: String, netns: File) {
        self.handed.insert(Arc::clone(uid), Handed { netns, container, at: Instant::now() });
    }

    /// A sandbox goes, maybe before it had a process.
    pub(super) fn forget(&mut self, container: &str) {
        self.handed.retain(|_, handed| handed.container != container);
    }

    /// Something will expire.
    pub(super) fn is_holding(&self) -> bool {
        !self.handed.is_empty()
    }

    pub(super) fn expire(&mut self) {
        self.handed.retain(|_, handed| handed.at.elapsed() < HANDED);
    }

    fn open_known(&self, uid: &str) -> io::Result<Option<(PathBuf, File)>> {
        let Some(holder) = self.holders.get(uid) else { return Ok(None) };
        let path = self.netns(holder.pid);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = started(&self.of(holder.pid, "stat")) == Some(holder.started)
            && uids(&self.of(holder.pid, "cgroup")).any(|found| found == uid);
        Ok(same.then_some((path, file)))
    }

    fn scan(&mut self) -> io::Result<()> {
        // A container's first process joins the pod's cgroup before its namespace.
        let host = inode(&self.proc.join("self/ns/net"));
        self.holders.clear();
        for entry in fs::read_dir(&self.proc)? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let cgroup = self.of(pid, "cgroup");
            let mut found = uids(&cgroup).peekable();
            if found.peek().is_none() || inode(&self.netns(pid)) == host {
                continue;
            }
            let Some(started) = started(&self.of(pid, "stat")) else { continue };
            for uid in found {
                let holder = self.holders.entry(uid.into()).or_insert(Holder { pid, started });
                if started < holder.started {
                    *holder = Holder { pid, started };
                }
            }
        }
        Ok(())
    }

    fn netns(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string()).join("ns/net")
    }

    /// Empty where the process is gone.
    fn of(&self, pid: u32, file: &str) -> String {
        fs::read_to_string(self.proc.join(pid.to_string()).join(file)).unwrap_or_default()
    }
}

/// Every pod UID in the paths of `/proc/PID/cgroup`; nested clusters have several.
fn uids(cgroup: &str) -> impl Iterator<Item = String> {
    let parts = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts.filter_map(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let uid = &name[name.rfind("pod")? + "pod".len()..];
        let plain = uid.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'-' | b'_'));
        (plain && UID.contains(&uid.len())).then(|| uid.replace('_', "-"))
    })
}

/// Field 22 of proc_pid_stat(5); the name in field 2 may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(19)?.parse().ok()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

/// ENOENT before, ESRCH after the file is found.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const A: &str = "0c1e6a3e-57a5-4b1e-9a55-0d4f3a2b1c0d";

    #[test]
    fn every_driver_and_version_is_read() {
        let slices = A.replace('-', "_");
        for path in [
            format!("0::/kubepods/besteffort/pod{A}/3f2a\n"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slices}.slice/cri-containerd-3f2a.scope\n"
            ),
            format!("0::/kubepods.slice/kubepods-pod{slices}.slice/crio-3f2a.scope\n"),
            format!("0::/../../pod{A}/3f2a\n"),
            format!("12:pids:/kn/node1/kubepods/pod{A}/x\n1:name=systemd:/kubepods/pod{A}/x\n0::/\n"),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{slices}.slice/x\n"
            ),
        ] {
            assert_eq!(uids(&path).next().as_deref(), Some(A), "{path}");
        }
        for path in ["0::/\n", "0::/system.slice/podman.service\n", "0::/kubepods/podx/y\n", "", "a\n:::"] {
            assert_eq!(uids(path).next(), None, "{path}");
        }
    }

    /// A process as /proc shows it; its namespace is a file.
    fn process(proc: &Path, pid: u32, started: u64, uid: &str, netns: &str) {
        let dir = proc.join(pid.to_string());
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::write(dir.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).unwrap();
        fs::write(dir.join("stat"), format!("{pid} (a) b) S {}{started} 0", "1 ".repeat(18))).unwrap();
        symlink(proc.join(netns), dir.join("ns/net")).unwrap();
    }

    #[test]
    fn a_pod_is_found_by_its_oldest_process_and_a_reused_number_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        for netns in ["host", "a", "nested", "b"] {
            fs::write(proc.join(netns), netns).unwrap();
        }
        process(proc, 1, 1, "none", "host");
        symlink(proc.join("1"), proc.join("self")).unwrap();
        // The runtime's helper is in the cgroup, but still in the host's namespace.
        process(proc, 7, 50, A, "host");
        process(proc, 9, 70, A, "nested");
        process(proc, 8, 60, A, "a");
        let mut finder = Finder { proc: proc.to_owned(), ..Finder::default() };
        let uid: Arc<str> = A.into();
        let read = |found: io::Result<(PathBuf, File)>| io::read_to_string(found?.1);
        assert_eq!(read(finder.open(&uid)).unwrap(), "a");
        // A new sandbox, whose process is still to come; the old one's is still there.
        finder.hand_over(&uid, "c2".into(), File::open(proc.join("b")).unwrap());
        assert_eq!(read(finder.open(&uid)).unwrap(), "b");
        finder.forget("c1");
        assert!(finder.is_holding(), "that was another sandbox");
        finder.handed.get_mut(&uid).unwrap().at -= HANDED;
        assert_eq!(read(finder.open(&uid)).unwrap(), "a", "the processes say where it is");
        assert!(!finder.is_holding());
        // Process 8 ends, and another pod's gets its number.
        process(proc, 8, 90, "11111111-57a5-4b1e-9a55-0d4f3a2b1c0d", "b");
        fs::remove_dir_all(proc.join("9")).unwrap();
        finder.scanned = None;
        assert_eq!(read(finder.open(&uid)).unwrap_err().kind(), io::ErrorKind::NotFound);
        // The same pod's new sandbox under the old number.
        process(proc, 8, 95, A, "b");
        finder.scanned = None;
        assert_eq!(read(finder.open(&uid)).unwrap(), "b");
    }
}
