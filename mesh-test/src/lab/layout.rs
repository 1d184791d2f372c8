//! Where a lab keeps what it makes: everything follows from its id, so that anybody who knows the id can clean up.

use crate::cgroup::{Cgroup, bpffs_mount, cgroup2_mount};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// All labs of this machine.
pub(super) const RUN: &str = "/run/undermesh";

/// Paths of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    pub id: String,
}

impl Layout {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    /// `/run/undermesh/lab-<id>`
    pub fn root(&self) -> PathBuf {
        Path::new(RUN).join(format!("lab-{}", self.id))
    }

    /// Who made the lab, and is it alive.
    pub fn owner(&self) -> PathBuf {
        self.root().join("owner.json")
    }

    pub fn netns(&self) -> PathBuf {
        self.root().join("netns")
    }

    /// The folder of Kubernetes YAML that the agents watch.
    pub fn config(&self) -> PathBuf {
        self.root().join("config")
    }

    /// Standard output of the pods' processes.
    pub fn logs(&self) -> PathBuf {
        self.root().join("logs")
    }

    /// `/etc/hosts` of the pods, a file per namespace.
    pub fn hosts(&self) -> PathBuf {
        self.root().join("hosts")
    }

    /// Run directory of a node's agent.
    pub fn agent(&self, node: &str) -> PathBuf {
        self.root().join(node)
    }

    /// `<cgroup2>/undermesh-lab-<id>`: every process of the lab is below.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::at(cgroup2_mount()?.join(format!("undermesh-lab-{}", self.id))))
    }

    /// What the lab and its agents may have pinned.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let Some(bpffs) = bpffs_mount()? else { return Ok(Vec::new()) };
        let Ok(entries) = std::fs::read_dir(bpffs.join("undermesh")) else { return Ok(Vec::new()) };
        let ours = format!("lab-{}-", self.id);
        let mine = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&ours));
        Ok(entries.flatten().map(|entry| entry.path()).filter(mine).collect())
    }

    /// Name of a pin directory below `<bpffs>/undermesh`.
    pub fn pin_name(&self, of: &str) -> String {
        format!("lab-{}-{of}", self.id)
    }
}
