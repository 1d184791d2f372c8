//! Which files a set of configured paths holds, and whether one is worth reading again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Read into memory whole; no hand or tool writes more into one file of objects.
pub(super) const MAX_FILE: u64 = 64 << 20;
/// Folders within folders; symbolic links may make circles.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<Arc<Path>, Stamp>,
    /// Folders and paths that could not be read: what is known below them stays.
    pub(super) unreadable: BTreeMap<PathBuf, io::Error>,
}

/// Equal stamps of one path: the content has not changed since, if `settled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), len: meta.len(), modified: meta.modified().ok() }
    }

    /// File systems keep times in ticks: a second write within the tick of the first leaves the same stamp.
    pub(super) fn settled(&self) -> bool {
        self.age().is_some_and(|age| age > Duration::from_secs(1))
    }

    pub(super) fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.modified?).ok()
    }
}

/// Lists the files of all paths: a file as it is, of a folder those that end in `.yaml`, `.yml` or `.json`, at any
/// depth. Hidden names are skipped (a mounted ConfigMap's `..data` shows its files a second time).
pub(super) fn list(paths: &[PathBuf]) -> Tree {
    let mut tree = Tree::default();
    for path in paths {
        let mut above = BTreeSet::new();
        if let Err(error) = visit(path, true, 0, &mut above, &mut tree) {
            tree.unreadable.insert(path.clone(), error);
        }
    }
    tree
}

fn visit(path: &Path, given: bool, depth: usize, above: &mut BTreeSet<(u64, u64)>, tree: &mut Tree) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_dir() {
        if given || (meta.is_file() && is_manifest(path)) {
            tree.files.insert(path.into(), Stamp::of(&meta));
        }
        return Ok(());
    }
    let id = (meta.dev(), meta.ino());
    if depth > MAX_DEPTH || !above.insert(id) {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        match visit(&path, false, depth + 1, above, tree) {
            // Gone between listing and looking, or a dangling link: not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tree.unreadable.insert(path, error);
            }
            Ok(()) => {}
        }
    }
    above.remove(&id);
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}
