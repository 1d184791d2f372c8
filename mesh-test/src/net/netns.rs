//! A named network namespace: a bind mount of `/proc/…/ns/net`, as `ip netns` makes them, in a directory of ours.

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

/// Names a namespace that lives as long as its bind mount; [`Netns::remove`] ends it, dropping does not.
#[derive(Clone, Debug)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// Makes a namespace at `<dir>/<name>` with `lo` still down.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(name);
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        on_thread(|| -> Result<()> {
            unshare(UnshareFlags::NEWNET).context("cannot make a network namespace")?;
            mount_bind("/proc/thread-self/ns/net", &path)
                .with_context(|| format!("cannot bind the namespace to {}", path.display()))
        })?;
        Ok(Self { path })
    }

    /// Takes a namespace that exists.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on a thread of its own inside the namespace: sockets it opens belong there wherever they go later.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.open()?;
        on_thread(|| {
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", self.path.display()))?;
            Ok(f())
        })
    }

    pub fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("no network namespace at {}", self.path.display()))
    }

    /// The command that enters the namespace by hand; a failing test prints it.
    pub fn hint(&self) -> String {
        format!("nsenter --net={} bash", self.path.display())
    }

    /// Takes the name away. The namespace itself goes with its last process and socket.
    pub fn remove(&self) -> Result<()> {
        match unmount(&self.path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", self.path.display())),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Leaves the namespaces named by `flags` for new ones, for the calling thread.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // The safe spelling is deprecated because of CLONE_FILES, which would part threads from their descriptors.
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    #[expect(
        deprecated,
        reason = "sound without CLONE_FILES; the replacement needs `unsafe`, which this crate has none of"
    )]
    rustix::thread::unshare(flags)
}

/// A directory readable by its owner only.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    rustix::fs::chmod(path, Mode::RWXU).with_context(|| format!("cannot restrict {}", path.display()))
}

/// Namespaces belong to threads: a thread that changed its own must not be used for anything else.
fn on_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
