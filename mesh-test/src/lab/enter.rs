//! `mesh-lab enter`: becomes a process inside a pod or node. It is a process of its own because a cgroup takes whole
//! processes and because namespaces are safest changed where there is one thread.

use crate::cgroup::Cgroup;
use crate::net::{Netns, unshare};
use anyhow::{Context, Result, bail};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where to go and what to become.
#[derive(Clone, Debug, clap::Args)]
pub struct EnterArgs {
    #[arg(long)]
    pub netns: PathBuf,
    #[arg(long)]
    pub cgroup: PathBuf,
    /// A folder with `hosts`, `resolv.conf` and `nsswitch.conf` to see in /etc.
    #[arg(long)]
    pub etc: Option<PathBuf>,
    /// The lab's pid: if it is gone already, so is the reason to start.
    #[arg(long)]
    pub parent: i32,
    #[arg(trailing_var_arg = true, required = true)]
    pub command: Vec<String>,
}

/// Enters and executes; returns only on failure.
pub fn enter(args: &EnterArgs) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG)")?;
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
        bail!("the lab (pid {}) is gone", args.parent);
    }
    Cgroup::at(args.cgroup.clone()).join()?;
    let netns = Netns::at(&args.netns).open()?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {}", args.netns.display()))?;
    if let Some(etc) = &args.etc {
        unshare(UnshareFlags::NEWNS).context("cannot make a mount namespace")?;
        // Downstream: what is bound here stays here, what the host unmounts goes here too.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .context("mount propagation")?;
        for file in ["hosts", "resolv.conf", "nsswitch.conf"] {
            let target = Path::new("/etc").join(file);
            if target.exists() {
                mount_bind(etc.join(file), &target).with_context(|| format!("cannot bind {}", target.display()))?;
            }
        }
    }
    let (program, rest) = args.command.split_first().context("no command")?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot execute {program}"))
}
