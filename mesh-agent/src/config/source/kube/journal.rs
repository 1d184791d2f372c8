//! The last good objects on disk, so that an agent that restarts while the API server is away serves what it served.
//!
//! A file of lines, one for each change, appended at most once a second; written anew (beside, then renamed) when most
//! of it is history. A torn last line, as a crash leaves it, is not read. The file holds keys of Gateways' certificates:
//! it is for its owner only, and its folder (`/run`) is in memory.

use crate::config::resource::{Kind, ObjectKey};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file with fewer lines than this is not worth writing anew.
const SMALL: usize = 2_000;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// In the file, dead ones too.
    lines: usize,
}

#[derive(Serialize, Deserialize)]
struct Line<V> {
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    /// None: it went.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    object: Option<V>,
}

/// Adds a line that says what an object is now.
pub(super) fn put(lines: &mut Vec<u8>, key: &ObjectKey, object: Value) {
    write(lines, key, Some(object));
}

/// Adds a line that says that an object is gone.
pub(super) fn gone(lines: &mut Vec<u8>, key: &ObjectKey) {
    write(lines, key, None);
}

impl Journal {
    /// Nothing is read or written yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, lines: 0 }
    }

    /// The objects as they were when the last run ended, and how many lines could not be read.
    pub(super) fn read(&self) -> io::Result<(Vec<(ObjectKey, Value)>, usize)> {
        let mut last: HashMap<ObjectKey, Option<Value>> = HashMap::new();
        let mut unread = 0;
        each_line(&self.path, |text| match line(text) {
            Some((key, object)) => drop(last.insert(key, object)),
            None => unread += 1,
        })?;
        Ok((last.into_iter().filter_map(|(key, object)| Some((key, object?))).collect(), unread))
    }

    /// The first lines replace what was there: they are all that is in force. `objects` are those in force now.
    ///
    /// # Errors
    /// As of the file system.
    pub(super) fn append(&mut self, lines: &[u8], objects: usize) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        match &mut self.file {
            Some(file) => file.write_all(lines)?,
            None => {
                let beside = self.beside();
                let mut file = private(&beside)?;
                file.write_all(lines)?;
                fs::rename(&beside, &self.path)?;
                self.file = Some(file);
            }
        }
        self.lines += lines.iter().filter(|byte| **byte == b'\n').count();
        if self.lines > SMALL && self.lines > 2 * objects {
            self.compact()?;
        }
        Ok(())
    }

    fn beside(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    fn compact(&mut self) -> io::Result<()> {
        let mut last: HashMap<ObjectKey, usize> = HashMap::new();
        let mut at = 0;
        each_line(&self.path, |text| {
            if let Some((key, object)) = line(text) {
                match object {
                    Some(_) => last.insert(key, at),
                    None => last.remove(&key),
                };
            }
            at += 1;
        })?;
        let beside = self.beside();
        let mut out = BufWriter::new(private(&beside)?);
        let mut written = Ok(());
        let (mut at, mut kept) = (0, 0);
        let live: HashSet<usize> = last.into_values().collect();
        each_line(&self.path, |text| {
            if live.contains(&at) && written.is_ok() {
                written = out.write_all(text).and_then(|()| out.write_all(b"\n"));
                kept += 1;
            }
            at += 1;
        })?;
        written?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&beside, &self.path)?;
        (self.file, self.lines) = (Some(file), kept);
        Ok(())
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(Mode::RUSR.bits() | Mode::WUSR.bits()).open(path)
}

fn write(lines: &mut Vec<u8>, key: &ObjectKey, object: Option<Value>) {
    let line = Line {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        object,
    };
    let start = lines.len();
    // A vector takes every byte, and JSON values always have a text.
    match serde_json::to_writer(&mut *lines, &line) {
        Ok(()) => lines.push(b'\n'),
        Err(_) => lines.truncate(start),
    }
}

fn line(text: &[u8]) -> Option<(ObjectKey, Option<Value>)> {
    let line: Line<Value> = serde_json::from_slice(text).ok()?;
    let kind = Kind::ALL.iter().find(|kind| kind.name() == line.kind)?;
    Some((ObjectKey::new(*kind, &line.namespace, &line.name), line.object))
}

/// A file that is not there has no lines.
fn each_line(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text)? > 0 {
        if text.ends_with(b"\n") {
            take(&text[..text.len() - 1]);
        }
        text.clear();
    }
    Ok(())
}
