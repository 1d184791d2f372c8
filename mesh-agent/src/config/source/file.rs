//! Folders and files of plain Kubernetes YAML or JSON.
//!
//! Invariant: what cannot be read never takes away what could be read before. A broken document, a half-written file,
//! a folder that is gone for a moment leave the last good version of their objects in force, and a diagnostic says so.

use super::tree::{self, MAX_FILE, Stamp};
use crate::config::Changes;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{ObjectKey, Provenance, Resource, parse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An editor that empties a file before it writes it is given this long.
const EMPTY_GRACE: Duration = Duration::from_millis(400);

/// The objects of a set of files. [`FileSource::scan`] compares them with what they were.
#[derive(Debug)]
pub struct FileSource {
    pub(super) paths: Vec<PathBuf>,
    files: BTreeMap<Arc<Path>, FileState>,
    /// Which files define an object; the last in order of path counts, as with `kubectl apply -f`.
    defined_in: HashMap<ObjectKey, BTreeSet<Arc<Path>>>,
    in_force: HashMap<ObjectKey, Arc<Resource>>,
    twice: BTreeMap<ObjectKey, Diagnostic>,
}

/// What one look at the files found.
#[derive(Debug, Default)]
pub struct Scan {
    pub changes: Changes,
    /// All that is wrong with the files now, not only what is new.
    pub diagnostics: Vec<Diagnostic>,
    /// Look again after this long, whatever the watcher says.
    pub again: Option<Duration>,
}

#[derive(Debug)]
struct FileState {
    stamp: Stamp,
    settled: bool,
    content: u64,
    objects: BTreeMap<ObjectKey, Arc<Resource>>,
    diagnostics: Vec<Diagnostic>,
}

impl FileSource {
    /// `paths` are files and folders; a folder is taken with all below it.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            files: BTreeMap::new(),
            defined_in: HashMap::new(),
            in_force: HashMap::new(),
            twice: BTreeMap::new(),
        }
    }

    /// Reads the files that changed since the last scan.
    pub fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let mut touched = BTreeSet::new();
        let tree = tree::list(&self.paths);
        for (path, error) in &tree.unreadable {
            scan.diagnostics.push(unreadable(path, error));
        }
        for (path, stamp) in tree.files.iter().map(|(path, stamp)| (path, *stamp)) {
            let known = self.files.get(path);
            if known.is_some_and(|known| known.settled && known.stamp == stamp) {
                continue;
            }
            match read(path, stamp) {
                Ok(text) => self.take(path, stamp, &text, &mut touched, &mut scan),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    scan.diagnostics.push(unreadable(path, &error));
                    scan.again = Some(EMPTY_GRACE);
                }
            }
        }
        let gone: Vec<_> = self.files.keys().filter(|path| is_gone(path, &tree)).cloned().collect();
        for path in gone {
            if let Some(state) = self.files.remove(&path) {
                for key in state.objects.into_keys() {
                    self.undefine(&key, &path);
                    touched.insert(key);
                }
            }
        }
        for key in touched {
            self.settle(key, &mut scan.changes);
        }
        scan.diagnostics.extend(self.files.values().flat_map(|state| &state.diagnostics).cloned());
        scan.diagnostics.extend(self.twice.values().cloned());
        scan
    }

    /// Takes a file's new content.
    fn take(&mut self, path: &Arc<Path>, stamp: Stamp, text: &str, touched: &mut BTreeSet<ObjectKey>, scan: &mut Scan) {
        let content = hash(text);
        let settled = stamp.settled();
        let former = self.files.get_mut(path);
        if let Some(state) = former {
            if state.content == content {
                (state.stamp, state.settled) = (stamp, settled);
                return;
            }
            let young = stamp.age().is_none_or(|age| age < EMPTY_GRACE);
            if text.trim().is_empty() && !state.objects.is_empty() && young {
                scan.again = Some(EMPTY_GRACE);
                return;
            }
        }
        let former = self.files.remove(path).map(|state| state.objects).unwrap_or_default();
        let parsed = parse::parse(path, text);
        let mut state =
            FileState { stamp, settled, content, objects: BTreeMap::new(), diagnostics: parsed.diagnostics };
        for new in parsed.resources {
            let new = Arc::new(new);
            if let Some(old) = state.objects.insert(new.key.clone(), Arc::clone(&new))
                && old.hash != new.hash
            {
                state.diagnostics.push(defined_twice(&old, &new));
            }
        }
        let mut kept = Vec::new();
        let mut own: BTreeSet<ObjectKey> = BTreeSet::new();
        for (key, old) in former {
            if !state.objects.contains_key(&key) && (parsed.unnamed || parsed.broken.contains(&key)) {
                kept.push(key.to_string());
                state.objects.insert(key.clone(), old);
            }
            own.insert(key);
        }
        if !kept.is_empty() {
            state.diagnostics.push(last_good(path, &kept));
        }
        own.extend(state.objects.keys().cloned());
        for key in own {
            if state.objects.contains_key(&key) {
                self.defined_in.entry(key.clone()).or_default().insert(Arc::clone(path));
            } else {
                self.undefine(&key, path);
            }
            touched.insert(key);
        }
        self.files.insert(Arc::clone(path), state);
    }

    fn undefine(&mut self, key: &ObjectKey, path: &Arc<Path>) {
        if let Some(files) = self.defined_in.get_mut(key) {
            files.remove(path);
            if files.is_empty() {
                self.defined_in.remove(key);
            }
        }
    }

    /// Decides which definition of an object counts, and what that changes.
    fn settle(&mut self, key: ObjectKey, changes: &mut Changes) {
        let files = self.defined_in.get(&key);
        let mut definitions = files.into_iter().flatten().filter_map(|f| self.files.get(f)?.objects.get(&key)).rev();
        let Some(winner) = definitions.next() else {
            self.twice.remove(&key);
            if self.in_force.remove(&key).is_some() {
                changes.deletes.push(key);
            }
            return;
        };
        match definitions.find(|other| other.hash != winner.hash) {
            Some(other) => self.twice.insert(key.clone(), defined_twice(other, winner)),
            None => self.twice.remove(&key),
        };
        let winner = Arc::clone(winner);
        match self.in_force.insert(key.clone(), Arc::clone(&winner)) {
            Some(old) if old.hash == winner.hash && old.place == winner.place => {}
            Some(old) if old.hash == winner.hash => changes.moved.push((key, winner.place.clone())),
            _ => changes.upserts.push(winner),
        }
    }
}

/// Gone for good: not in the listing, and no folder above it merely failed to be listed.
fn is_gone(path: &Path, tree: &tree::Tree) -> bool {
    !tree.files.contains_key(path) && !tree.unreadable.keys().any(|above| path.starts_with(above))
}

fn read(path: &Path, stamp: Stamp) -> io::Result<String> {
    if stamp.len > MAX_FILE {
        return Err(io::Error::other(format!(
            "{} MiB is more than the {} MiB we read",
            stamp.len >> 20,
            MAX_FILE >> 20
        )));
    }
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    std::fs::read_to_string(path)
}

fn hash(text: &str) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    text.hash(&mut hasher);
    hasher.finish()
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let place = Provenance { file: path.into(), line: 1, document: 0 };
    let mut diagnostic =
        Diagnostic::error(Code::Unreadable, format!("cannot be read: {error}; what was known from it stays"))
            .at(&place)
            .fix("check that it exists and that the agent may read it");
    diagnostic.line = None;
    diagnostic
}

fn defined_twice(ignored: &Resource, counts: &Resource) -> Diagnostic {
    let message = format!("defined differently at {} and {}; the later one counts", ignored.place, counts.place);
    Diagnostic::warning(Code::DefinedTwice, message).object(&counts.key).at(&counts.place).fix("remove one of them")
}

fn last_good(path: &Arc<Path>, kept: &[String]) -> Diagnostic {
    let shown = kept.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if kept.len() > 5 { format!(" and {} more", kept.len() - 5) } else { String::new() };
    let place = Provenance { file: Arc::clone(path), line: 1, document: 0 };
    let message = format!("the file is broken; the last good version stays in force of {shown}{more}");
    Diagnostic::warning(Code::LastGoodKept, message).at(&place).fix("correct the file's other errors")
}

#[cfg(test)]
mod tests;
