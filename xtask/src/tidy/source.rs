//! A source file as tidy sees it: lines without comments, and where its tests begin.

use crate::sh;
use anyhow::{Context, Result};
use std::fs;

pub(crate) struct Source {
    /// Relative to the workspace's root.
    pub(crate) path: String,
    pub(crate) lines: Vec<String>,
    /// First line (0-based) of the trailing `mod tests`, or the number of lines.
    tests_at: usize,
}

impl Source {
    pub(crate) fn read(path: &str) -> Result<Self> {
        let text = fs::read_to_string(sh::root().join(path)).with_context(|| path.to_owned())?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let tests_at = lines.iter().position(|l| l.trim() == "#[cfg(test)]").unwrap_or(lines.len());
        Ok(Self { path: path.to_owned(), lines, tests_at })
    }

    /// Product code with its line numbers (1-based), comments cut off.
    pub(crate) fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test() { 0 } else { self.tests_at };
        self.lines[..end].iter().enumerate().map(|(at, line)| (at + 1, code(line)))
    }

    /// All code, tests too.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(at, line)| (at + 1, code(line)))
    }

    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/benches/")
    }

    pub(crate) fn under(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

/// The line up to its comment. A `//` inside a string is cut too: good enough for words that never follow one.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}
