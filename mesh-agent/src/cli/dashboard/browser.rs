//! A browser of the person who ran the command, where there is a desktop.

use std::process::{Command, Stdio};

/// A desktop is there, and its user is not root: browsers refuse to run as root, and should.
pub(super) fn may_open() -> bool {
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    desktop && !rustix::process::geteuid().is_root()
}

/// Asks the desktop (freedesktop.org's xdg-open). Without it the printed address is enough, so a failure is no error.
pub(super) fn open(url: &str) {
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut child) => {
            std::thread::spawn(move || child.wait());
        }
        Err(error) => tracing::debug!(%error, "no browser was opened"),
    }
}
