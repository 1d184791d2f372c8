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

/// Room for what is written, at an address that disks take.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<u8>);

impl Blocks {
    /// Appends whole lines to a file that was opened to append, and is nobody else's open file: its flags are changed on the
    /// way. `past_cache`: as far as that can be.
    ///
    /// # Errors
    /// As `write(2)`, and how many bytes are in the file nevertheless: a disk may be full in the middle.
    pub(super) fn append(&mut self, file: &mut File, bytes: &[u8], past_cache: bool) -> Result<(), (usize, io::Error)> {
        let none = |error| (0, error);
        if !file.metadata().map_err(none)?.is_file() {
            return file.write_all(bytes).map_err(none);
        }
        // Not every file system has locks; a line that is cut in two is better than none.
        let locked = file.lock().is_ok();
        let end = file.metadata().map_err(none)?.len();
        let result = if past_cache { self.append_blocks(file, end, bytes) } else { file.write_all(bytes) };
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

    fn append_blocks(&mut self, file: &mut File, end: u64, bytes: &[u8]) -> io::Result<()> {
        let beyond = usize::try_from(end % BLOCK as u64).unwrap_or(0);
        let head = bytes.len().min((BLOCK - beyond) % BLOCK);
        let (head, rest) = bytes.split_at(head);
        file.write_all(head)?;
        let whole = rest.len() - rest.len() % BLOCK;
        let written = self.direct(file, rest.get(..whole).unwrap_or_default());
        // An error says here what it is; where somebody else appends to the file, its end was not where it seemed.
        file.write_all(rest.get(written..).unwrap_or_default())
    }

    /// How many bytes reached the disk; none where the file system, or the place, is not made for it.
    fn direct(&mut self, file: &File, bytes: &[u8]) -> usize {
        if bytes.is_empty() || fcntl_setfl(file, OFlags::APPEND | OFlags::DIRECT).is_err() {
            return 0;
        }
        let Self(room) = self;
        if room.len() < bytes.len() + BLOCK {
            room.resize(bytes.len() + BLOCK, 0);
        }
        let from = room.as_ptr().align_offset(BLOCK);
        let written = match room.get_mut(from..from.saturating_add(bytes.len())) {
            Some(aligned) => {
                aligned.copy_from_slice(bytes);
                rustix::io::write(file, aligned).unwrap_or(0)
            }
            None => 0,
        };
        // Should that fail, so does the next write, and the file is opened anew.
        let _ = fcntl_setfl(file, OFlags::APPEND);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;

    fn appending(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).unwrap()
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
            blocks.append(&mut file, &bytes, true).unwrap();
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
        let file = appending(&dir.path().join("access.log"));
        let bytes = random(&mut fastrand::Rng::with_seed(5), 8 * BLOCK);
        // A file system that cannot is no failure of ours; else all of it goes this way.
        let able = fcntl_setfl(&file, OFlags::APPEND | OFlags::DIRECT).is_ok();
        assert_eq!(Blocks::default().direct(&file, &bytes), if able { bytes.len() } else { 0 });
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT) || !able);
    }

    #[test]
    fn what_is_no_file_is_written_as_ever() {
        let (reads, writes) = io::pipe().unwrap();
        let reader = std::thread::spawn(move || io::read_to_string(reads).unwrap());
        let text = "a line\n".repeat(100_000);
        let mut file = File::from(std::os::fd::OwnedFd::from(writes));
        Blocks::default().append(&mut file, text.as_bytes(), true).unwrap();
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
                    (0..16).for_each(|at| blocks.append(&mut file, &text, at % 4 != 0).unwrap());
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
