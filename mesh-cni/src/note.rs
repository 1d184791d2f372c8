//! Pods that began without the agent: a file each, in the agent's directory, until the agent has told the pod.

use crate::wire::Attachment;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Folder in the agent's directory.
pub const FOLDER: &str = "cni";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub of: Attachment,
    /// Seconds since 1970.
    pub began: u64,
    /// Why the agent did not have it.
    pub why: String,
}

impl Note {
    pub fn now(of: Attachment, why: String) -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { of, began, why }
    }
}

/// # Errors
/// As `mkdir(2)`, `open(2)` and `rename(2)`: after a reboot the agent's directory is this one's to make.
pub fn leave(run_dir: &Path, note: &Note) -> io::Result<()> {
    let file = file(run_dir, &note.of.container)?;
    for folder in [run_dir, &run_dir.join(FOLDER)] {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // A reader sees all of it or nothing.
    let half = file.with_extension("tmp");
    fs::write(&half, serde_json::to_vec(note)?)?;
    fs::rename(&half, &file)
}

/// Every note that can be read, the oldest first; what cannot be is no note.
pub fn all(run_dir: &Path) -> Vec<Note> {
    let files = fs::read_dir(run_dir.join(FOLDER)).into_iter().flatten().flatten();
    let notes = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "json"));
    let mut notes: Vec<Note> =
        notes.filter_map(|file| serde_json::from_slice(&fs::read(file.path()).ok()?).ok()).collect();
    notes.sort_by(|a, b| (a.began, &a.of.container).cmp(&(b.began, &b.of.container)));
    notes
}

/// # Errors
/// As `unlink(2)`; that there is none is no error.
pub fn forget(run_dir: &Path, container: &str) -> io::Result<()> {
    match fs::remove_file(file(run_dir, container)?) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `CNI_CONTAINERID` is letters, digits, `_`, `.` and `-`, a letter or digit first (section 2): no way out of the folder.
fn file(run_dir: &Path, container: &str) -> io::Result<PathBuf> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let good = container.starts_with(|c: char| c.is_ascii_alphanumeric()) && container.bytes().all(plain);
    if !good || container.len() > 200 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(run_dir.join(FOLDER).join(format!("{container}.json")))
}
