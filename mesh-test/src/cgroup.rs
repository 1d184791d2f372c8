//! cgroup v2 directories of the lab: processes are counted, placed and killed by them, and the hooks hang on them.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One cgroup directory.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `<cgroup2 mount>/<relative>`.
    pub fn create(relative: &str) -> Result<Self> {
        Self::at(cgroup2_mount()?.join(relative)).made()
    }

    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(self.path.join(name)).made()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling *process* (all threads) here.
    pub fn join(&self) -> Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Process ids here and below.
    pub fn processes(&self) -> Vec<u32> {
        let mut all: Vec<u32> = fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        for child in self.children() {
            all.extend(child.processes());
        }
        all
    }

    /// Kills everything here and below with SIGKILL; nothing can fork its way out (cgroup.kill, Linux 5.14).
    pub fn kill(&self) -> Result<()> {
        if self.path.exists() { self.write("cgroup.kill", "1") } else { Ok(()) }
    }

    /// Kills, waits until empty, removes the whole tree.
    pub fn remove(&self) -> Result<()> {
        self.kill()?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.path.exists() {
            self.remove_tree();
            if !self.path.exists() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} still has processes {:?} after cgroup.kill", self.path.display(), self.processes());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn made(self) -> Result<Self> {
        fs::create_dir_all(&self.path).with_context(|| format!("cannot make cgroup {}", self.path.display()))?;
        Ok(self)
    }

    fn children(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| Self::at(e.path())).collect()
    }

    fn remove_tree(&self) {
        for child in self.children() {
            child.remove_tree();
        }
        // Fails with EBUSY while a killed process is still on its way out; the caller tries again.
        let _ = fs::remove_dir(&self.path);
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
    }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid system.
pub fn cgroup2_mount() -> Result<PathBuf> {
    mount_of("cgroup2")?.context("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// Where bpffs is mounted, if it is.
pub fn bpffs_mount() -> Result<Option<PathBuf>> {
    mount_of("bpf")
}

fn mount_of(kind: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let target = fields.nth(1)?;
        (fields.next()? == kind).then(|| PathBuf::from(target.replace("\\040", " ")))
    }))
}
