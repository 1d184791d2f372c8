//! The thread that writes.

use super::batch::Batch;
use super::blocks::Blocks;
use super::render::Clock;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc as one;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Bytes of batches under way to the writer. Not a number of them: all workers hand over theirs each second, full or not.
const UNDER_WAY: usize = 4 << 20;
/// Bytes of lines that are worth a disk's time by themselves.
const MANY: usize = 128 << 10;
/// From here on the disk, or whatever takes the lines, is slower than they come.
const BEHIND: usize = UNDER_WAY / 4;

/// One file, its queue and its thread, which ends when the last holder is gone and the queue is empty.
#[derive(Debug)]
pub(super) struct Sink {
    file: Box<str>,
    /// Tokio's: the standard library's wakes the writer while it holds the lock that the writer then wants.
    queue: UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Lines(Batch),
    Reopen,
    /// Tell when everything before this is written.
    Flushed(one::SyncSender<()>),
}

impl Sink {
    /// # Errors
    /// As `pthread_create(3)`.
    pub(super) fn start(file: &str, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let ((queue, messages), waiting) = (mpsc::unbounded_channel(), Arc::default());
        let writer = Writer {
            place: Place::of(file),
            file: None,
            blocks: Blocks::default(),
            torn: false,
            failing: false,
            waiting: Arc::clone(&waiting),
            dropped: Arc::clone(&dropped),
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(messages))?;
        Ok(Self { file: file.into(), queue, waiting, dropped })
    }

    pub(super) fn is_to(&self, file: &str) -> bool {
        *self.file == *file
    }

    pub(super) fn take(&self, batch: Batch) {
        let (size, lines) = (batch.size(), batch.len() as u64);
        let room = self.waiting.fetch_add(size, Relaxed) < UNDER_WAY;
        if !(room && self.queue.send(Message::Lines(batch)).is_ok()) {
            self.waiting.fetch_sub(size, Relaxed);
            self.dropped.fetch_add(lines, Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        let _ = self.queue.send(Message::Reopen);
    }

    pub(super) fn flushed(&self, limit: Duration) -> bool {
        let (done, waits) = one::sync_channel(1);
        self.queue.send(Message::Flushed(done)).is_ok() && waits.recv_timeout(limit).is_ok()
    }
}

#[derive(Clone, Debug)]
enum Place {
    Stdout,
    Stderr,
    Path(Box<str>),
}

struct Writer {
    place: Place,
    file: Option<File>,
    blocks: Blocks,
    /// The last line in the file was cut: the disk was full.
    torn: bool,
    /// It was said that the file cannot be written.
    failing: bool,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        // Whoever mistyped a path learns it at the start, not with the first request.
        self.prepare();
        while let Some(message) = messages.blocking_recv() {
            match message {
                Message::Lines(batch) => {
                    self.write(&batch);
                    self.waiting.fetch_sub(batch.size(), Relaxed);
                }
                Message::Reopen => {
                    self.file = None;
                    self.prepare();
                }
                Message::Flushed(done) => drop(done.send(())),
            }
        }
    }

    fn write(&mut self, batch: &Batch) {
        let (mut clock, mut lines) = (Clock::default(), batch.lines());
        let mut left = batch.len() as u64;
        while left > 0 {
            self.prepare();
            let Some(mut file) = self.file.take() else { break };
            self.blocks.clear(file.metadata().map_or(0, |now| now.len()));
            let mut count = 0;
            while !self.blocks.is_full()
                && let Some((template, line, texts)) = lines.next()
            {
                template.write(&batch.format, &mut clock, line, texts, self.blocks.room());
                count += 1;
            }
            if count == 0 {
                break;
            }
            left -= count;
            match self.append(&mut file) {
                Ok(()) => (self.file, self.failing) = (Some(file), false),
                Err((written, error)) => {
                    let there = self.blocks.lines().get(..written).unwrap_or_default();
                    let whole = there.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.dropped.fetch_add(count.saturating_sub(whole), Relaxed);
                    self.torn |= there.last().is_some_and(|last| *last != b'\n');
                    self.failed(&error);
                }
            }
        }
        self.dropped.fetch_add(left, Relaxed);
    }

    /// On an error: how many bytes are in the file nevertheless.
    fn append(&mut self, file: &mut File) -> Result<(), (usize, io::Error)> {
        let none = |error| (0, error);
        if self.torn {
            // Taken back, it would make those who follow the file read all of it again.
            file.write_all(b"\n").map_err(none)?;
            self.torn = false;
        }
        let lines = self.blocks.lines();
        // Pages are what waits for a slow disk.
        let past_cache = lines.len() >= MANY && self.waiting.load(Relaxed) < BEHIND;
        match self.place {
            Place::Path(_) => self.blocks.append(file, past_cache),
            Place::Stdout | Place::Stderr => file.write_all(lines).map_err(none),
        }
    }

    /// Opens the file where it is not open, or where another one, or none, has its name (logrotate).
    fn prepare(&mut self) {
        if self.file.as_ref().is_some_and(|file| self.place.still_names(file)) {
            return;
        }
        match self.place.open() {
            Ok(file) => self.file = Some(file),
            // Lines go on to the old file, if there is one, rather than nowhere.
            Err(error) => self.failed(&error),
        }
    }

    /// Once per outage.
    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, file = ?self.place, "the access log cannot be written; lines are dropped and counted");
        }
    }
}

impl Place {
    fn of(file: &str) -> Self {
        match file {
            "-" | "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            path => Self::Path(path.into()),
        }
    }

    /// A descriptor of its own: Rust's `Stdout` looks for line ends and takes a lock.
    fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            Self::Path(path) => OpenOptions::new().append(true).create(true).open(&**path),
        }
    }

    fn still_names(&self, file: &File) -> bool {
        let Self::Path(path) = self else { return true };
        match (std::fs::metadata(&**path), file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
            _ => false,
        }
    }
}
