//! Watches a file source: a change is found within the debounce time; a slow rescan catches what the kernel's
//! notification misses (network file systems, folders that come into being later).

use super::file::{FileSource, Scan};
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Quiet for this long: the editor has finished.
const QUIET: Duration = Duration::from_millis(50);
/// A file that is written to all the time is read at least this often.
const AT_MOST: Duration = Duration::from_millis(300);
const RESCAN: Duration = Duration::from_secs(5);

/// A running watch; dropping it ends its thread.
#[derive(Debug)]
pub struct Watch {
    wake: Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Changed,
    Stop,
}

impl FileSource {
    /// Calls `found` from a thread of its own with each scan that changed something; the first scan is reported
    /// before this returns, so that a start never goes on without its configuration.
    pub fn watch(mut self, mut found: impl FnMut(Scan) + Send + 'static) -> std::io::Result<Watch> {
        let (wake, events) = channel();
        // Watch before the first look: nothing falls between them.
        let mut armed = Armed::new(&self, wake.clone());
        armed.arm();
        let first = self.scan();
        let mut diagnostics = first.diagnostics.clone();
        let mut wait = first.again;
        found(first);
        std::thread::Builder::new().name("config-files".into()).spawn(move || {
            loop {
                match events.recv_timeout(wait.unwrap_or(RESCAN)) {
                    Ok(Event::Changed) if settle(&events).is_err() => return,
                    Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(Event::Changed) | Err(RecvTimeoutError::Timeout) => {}
                }
                armed.arm();
                let scan = self.scan();
                wait = scan.again;
                if !scan.changes.is_empty() || scan.diagnostics != diagnostics {
                    diagnostics.clone_from(&scan.diagnostics);
                    found(scan);
                }
            }
        })?;
        Ok(Watch { wake })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread may be gone already.
        let _ = self.wake.send(Event::Stop);
    }
}

struct Stopped;

/// Waits until the files are quiet.
fn settle(events: &Receiver<Event>) -> Result<(), Stopped> {
    let end = Instant::now() + AT_MOST;
    while Instant::now() < end {
        match events.recv_timeout(QUIET) {
            Ok(Event::Changed) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    Ok(())
}

/// The kernel's notification for each configured path, as far as it could be had.
struct Armed {
    watcher: Option<notify::RecommendedWatcher>,
    paths: Vec<PathBuf>,
    watched: BTreeSet<PathBuf>,
}

impl Armed {
    fn new(source: &FileSource, wake: Sender<Event>) -> Self {
        let files: Vec<PathBuf> = source.paths.clone();
        let ours = move |event: &notify::Event| {
            !event.kind.is_access()
                && (event.paths.is_empty()
                    || event.paths.iter().any(|p| files.iter().any(|f| p.starts_with(f) || f.starts_with(p))))
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, &ours) {
                let _ = wake.send(Event::Changed);
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "no file notification: changes are found by a look every {RESCAN:?}");
        });
        Self { watcher: watcher.ok(), paths: source.paths.clone(), watched: BTreeSet::new() }
    }

    /// Watches what is not watched yet. Folders recursively; of a file its folder, since editors replace files.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for path in &self.paths {
            let (at, mode) = if path.is_dir() {
                (path.as_path(), RecursiveMode::Recursive)
            } else {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                (parent.unwrap_or(std::path::Path::new(".")), RecursiveMode::NonRecursive)
            };
            // A folder that was removed and made again needs a new watch: forget those that are gone.
            if !at.is_dir() {
                self.watched.remove(at);
            } else if !self.watched.contains(at) && watcher.watch(at, mode).is_ok() {
                self.watched.insert(at.to_owned());
            }
        }
    }
}
