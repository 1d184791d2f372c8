//! Nothing of a lab outlives it. Three lines of defence: the lab's own end (also by error, panic or signal), a
//! janitor process that notices the lab's death by an end of file, and the next lab's start.

use super::layout::{Layout, RUN};
use crate::net::Netns;
use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The process a lab belongs to. Pids are used again, pid and start time together are not.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Clock ticks after boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

impl Owner {
    pub fn this_process() -> Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, start_time: start_time(pid).context("cannot read /proc/self/stat")? })
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// Removes every trace of a lab: processes, cgroups, namespaces, pins, files. Doing it twice is fine.
pub fn remove(layout: &Layout) -> Result<()> {
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{error:#}"));
        }
    };
    note(layout.cgroup().and_then(|cgroup| cgroup.remove()));
    note(remove_namespaces(&layout.netns()));
    note(layout.pins().and_then(|pins| pins.iter().try_for_each(|pin| remove_pins(pin))));
    unmount_below(&layout.root());
    note(match fs::remove_dir_all(layout.root()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("cannot remove the run directory"),
        _ => Ok(()),
    });
    // Both stay if another lab, or an agent outside any lab, is up.
    let _ = fs::remove_dir(RUN);
    if let Ok(Some(bpffs)) = crate::cgroup::bpffs_mount() {
        let _ = fs::remove_dir(bpffs.join("undermesh"));
    }
    if problems.is_empty() { Ok(()) } else { anyhow::bail!("lab {} is not clean: {}", layout.id, problems.join("; ")) }
}

/// Removes labs whose process is gone; returns their ids.
pub fn remove_leftovers() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(RUN) else { return Ok(removed) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("lab-") else { continue };
        let layout = Layout::new(id);
        let owner = fs::read(layout.owner()).ok().and_then(|bytes| serde_json::from_slice::<Owner>(&bytes).ok());
        // A lab that is just being made has no owner file for a moment; one from before does not get one.
        let fresh =
            entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() < 5));
        if owner.is_some_and(|owner| owner.is_alive()) || (fresh && !layout.owner().exists()) {
            continue;
        }
        remove(&layout)?;
        removed.push(id.to_owned());
    }
    Ok(removed)
}

/// The janitor's life: waits for its standard input to end. `done` before the end means there is nothing to do.
pub fn janitor(id: &str) -> Result<()> {
    let mut said = String::new();
    let _ = io::stdin().read_to_string(&mut said);
    if said.trim() == "done" { Ok(()) } else { remove(&Layout::new(id)) }
}

fn remove_namespaces(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    entries.flatten().try_for_each(|entry| Netns::at(entry.path()).remove())
}

fn remove_pins(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove pins at {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn unmount_below(root: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(target).starts_with(root) {
            let _ = unmount(target, UnmountFlags::DETACH);
        }
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces; fields are counted after it. Field 22 is the 20th after the name.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_from_a_later_process_with_its_pid() {
        let me = Owner::this_process().unwrap();
        assert!(me.is_alive());
        assert!(!Owner { start_time: me.start_time + 1, ..me }.is_alive());
    }
}
