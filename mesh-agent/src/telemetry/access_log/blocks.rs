//! Past the page cache.
//!
//! A log that comes in full buffers soon fills the node's memory with pages that nobody reads: each that is taken from
//! somewhere else costs ten times what writing it does. So its whole blocks go to the disk directly; what is left at both
//! ends, and everything where that is not possible, goes through the cache. Invariant: all of it, once and in its order;
//! of two agents with one file (one hands over to the other) no line is in another one's middle.

use rustix::fs::{OFlags, fcntl_setfl};
use std::fs::File;
use std::io::{self, Write};

/// Addresses, lengths and places in the file are multiples of it: no disk wants more (open(2), `O_DIRECT`).
const BLOCK: usize = 4096;
/// Bytes that are written at once, by and large: a batch of longer lines than most.
const ROOM: usize = 1 << 20;
/// What is set aside for the line that fills it.
const LINE: usize = 8 << 10;

/// Room for what is to be written next, as far from a block's begin as the file's end is: nothing of it moves again.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The lines begin at `from`.
    room: Vec<u8>,
    from: usize,
}

impl Blocks {
    /// Makes room for what will be at `end` of the file, should nobody else write there.
    pub(super) fn clear(&mut self, end: u64) {
        self.room.clear();
        self.room.shrink_to(BLOCK + ROOM + LINE);
        self.room.reserve_exact(BLOCK + ROOM + LINE);
        let beyond = (end % BLOCK as u64) as usize;
        self.from = (beyond + BLOCK - self.room.as_ptr().addr() % BLOCK) % BLOCK;
        self.room.resize(self.from, 0);
    }

    /// Whole lines are to be added here.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        &mut self.room
    }

    pub(super) fn is_full(&self) -> bool {
        self.room.len() >= self.from + ROOM
    }

    pub(super) fn lines(&self) -> &[u8] {
        self.room.get(self.from..).unwrap_or_default()
    }

    /// Appends what is in the room to a file that was opened to append, and is nobody else's open file: its flags are
    /// changed on the way. `past_cache`: as far as that can be.
    ///
    /// # Errors
    /// As `write(2)`, and how many bytes are in the file nevertheless: a disk may be full in the middle.
    pub(super) fn append(&self, file: &mut File, past_cache: bool) -> Result<(), (usize, io::Error)> {
        let (none, bytes) = (|error| (0, error), self.lines());
        if !file.metadata().map_err(none)?.is_file() {
            return file.write_all(bytes).map_err(none);
        }
        // Not every file system has locks; a line that is cut in two is better than none.
        let locked = file.lock().is_ok();
        let end = file.metadata().map_err(none)?.len();
        let result = if past_cache { append_blocks(file, end, bytes) } else { file.write_all(bytes) };
        let result = result.map_err(|error| {
            let grown = file.metadata().map_or(0, |now| now.len().saturating_sub(end));
            (usize::try_from(grown).map_or(bytes.len(), |grown| grown.min(bytes.len())), error)
        });
        if locked {
            // At the latest when it is closed.
            let _ = file.unlock();
        }
        result
    }
}

fn append_blocks(file: &mut File, end: u64, bytes: &[u8]) -> io::Result<()> {
    let beyond = (end % BLOCK as u64) as usize;
    let head = bytes.len().min((BLOCK - beyond) % BLOCK);
    let (head, rest) = bytes.split_at(head);
    file.write_all(head)?;
    let written = direct(file, rest.get(..rest.len() - rest.len() % BLOCK).unwrap_or_default());
    // An error says here what it is; where somebody else appends to the file, its end was not where it seemed.
    file.write_all(rest.get(written..).unwrap_or_default())
}

/// How many bytes reached the disk; none where the file system, or the place, is not made for it.
fn direct(file: &File, bytes: &[u8]) -> usize {
    let aligned = bytes.as_ptr().addr().is_multiple_of(BLOCK);
    if bytes.is_empty() || !aligned || fcntl_setfl(file, OFlags::APPEND | OFlags::DIRECT).is_err() {
        return 0;
    }
    let written = rustix::io::write(file, bytes).unwrap_or(0);
    // Should that fail, so does the next write, and the file is opened anew.
    let _ = fcntl_setfl(file, OFlags::APPEND);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;

    fn appending(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).unwrap()
    }

    fn append(blocks: &mut Blocks, file: &mut File, bytes: &[u8]) {
        blocks.clear(file.metadata().unwrap().len());
        blocks.room().extend_from_slice(bytes);
        blocks.append(file, true).unwrap();
    }

    fn random(rng: &mut fastrand::Rng, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
    }

    #[test]
    fn everything_is_there_once_and_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let (mut file, mut blocks, mut wanted) = (appending(&path), Blocks::default(), Vec::new());
        let mut rng = fastrand::Rng::with_seed(3);
        for length in [1, 4095, 4096, 4097, 0, 300_000, 12_288, 4096, 100, 524_289, 8191, 8192, 1] {
            let bytes = random(&mut rng, length);
            append(&mut blocks, &mut file, &bytes);
            wanted.extend(bytes);
            if rng.bool() {
                // As what is short goes.
                file.write_all(b"short\n").unwrap();
                wanted.extend(b"short\n");
            }
            assert!(std::fs::read(&path).unwrap() == wanted, "{length}");
        }
    }

    #[test]
    fn blocks_go_directly() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = appending(&dir.path().join("access.log"));
        // A file system that cannot is no failure of ours; else all of it goes this way.
        let able = fcntl_setfl(&file, OFlags::APPEND | OFlags::DIRECT).is_ok();
        fcntl_setfl(&file, OFlags::APPEND).unwrap();
        let mut blocks = Blocks::default();
        for beyond in [0, 1, 4095, 777] {
            file.set_len(beyond).unwrap();
            blocks.clear(beyond);
            blocks.room().extend(random(&mut fastrand::Rng::with_seed(5), 9 * BLOCK));
            let first = (BLOCK - beyond as usize) % BLOCK;
            file.write_all(&blocks.lines()[..first]).unwrap();
            let whole = &blocks.lines()[first..first + 8 * BLOCK];
            assert_eq!(direct(&file, whole), if able { whole.len() } else { 0 }, "{beyond}");
        }
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
    }

    /// Somebody else wrote since the room was made, or a line was longer than it.
    #[test]
    fn what_is_not_where_it_should_be_is_written_nevertheless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let (mut file, mut blocks) = (appending(&path), Blocks::default());
        let bytes = random(&mut fastrand::Rng::with_seed(7), 3 * ROOM);
        blocks.clear(1);
        blocks.room().extend_from_slice(&bytes);
        assert!(blocks.is_full());
        blocks.append(&mut file, true).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        blocks.clear(0);
        assert!(blocks.room.capacity() < 2 * ROOM, "what one line took is given back");
    }

    #[test]
    fn what_is_no_file_is_written_as_ever() {
        let (reads, writes) = io::pipe().unwrap();
        let reader = std::thread::spawn(move || io::read_to_string(reads).unwrap());
        let text = "a line\n".repeat(100_000);
        let mut file = File::from(std::os::fd::OwnedFd::from(writes));
        let mut blocks = Blocks::default();
        blocks.clear(0);
        blocks.room().extend_from_slice(text.as_bytes());
        blocks.append(&mut file, true).unwrap();
        drop(file);
        assert!(reader.join().unwrap() == text);
    }

    /// As while one agent hands over to the next.
    #[test]
    fn lines_of_two_agents_stay_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let line = |who: u8| [who; 96].into_iter().chain([b'\n']).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            for who in [b'a', b'b'] {
                let (mut file, text) = (appending(&path), line(who).repeat(6_000));
                scope.spawn(move || {
                    let mut blocks = Blocks::default();
                    for at in 0..16 {
                        blocks.clear(file.metadata().unwrap().len());
                        blocks.room().extend_from_slice(&text);
                        blocks.append(&mut file, at % 4 != 0).unwrap();
                    }
                });
            }
        });
        let all = std::fs::read(&path).unwrap();
        for who in [b'a', b'b'] {
            assert_eq!(all.split_inclusive(|byte| *byte == b'\n').filter(|one| **one == line(who)).count(), 16 * 6_000);
        }
        assert_eq!(all.len(), 2 * 16 * 6_000 * 97);
    }
}
