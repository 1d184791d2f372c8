//! Small numbers for names: what the kernel stores instead of `namespace/name:port`.
//!
//! Kept in the `NAMES` map as well, so that ids survive a restart and a dump can name them without an agent.

use super::{KernelError, maps};
use mesh_common::maps::Name;
use rustc_hash::FxHashMap;
use std::path::Path;

#[derive(Debug)]
pub(super) struct Ids {
    map: maps::Table<u32, Name>,
    ids: FxHashMap<String, u32>,
    next: u32,
}

impl Ids {
    /// Takes over the ids of a former process.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        let map = maps::hash(pin_dir, "NAMES")?;
        let ids: FxHashMap<String, u32> =
            map.iter().filter_map(Result::ok).map(|(id, name): (u32, Name)| (text(&name), id)).collect();
        let next = ids.values().max().map_or(1, |highest| highest.wrapping_add(1)).max(1);
        Ok(Self { map, ids, next })
    }

    /// The name's id, new if it has none. Never 0.
    pub(super) fn intern(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        // A full NAMES costs the dump its names, nothing else.
        let _ = self.map.insert(id, encode(name), 0);
        self.ids.insert(name.to_owned(), id);
        id
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(id) = self.ids.remove(name) {
            let _ = self.map.remove(&id);
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.ids.keys()
    }
}

/// The name of an id, or `#id` where it has none (any more).
pub(super) fn name_of(names: &maps::Table<u32, Name>, id: u32) -> String {
    names.get(&id, 0).map_or_else(|_| format!("#{id}"), |name| text(&name))
}

fn encode(name: &str) -> Name {
    let mut text = [0; 136];
    for (slot, byte) in text.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    Name { text }
}

fn text(name: &Name) -> String {
    let bytes: Vec<u8> = name.text.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit() {
        let longest = format!("{}/{}:65535", "n".repeat(63), "s".repeat(63));
        assert_eq!(text(&encode(&longest)), longest);
    }
}
