//! What objects refer to, both ways round.

use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::hash::Hash;

/// Owners `O` and the keys `K` they refer to.
#[derive(Debug)]
pub(super) struct Links<K, O> {
    keys: FxHashMap<O, BTreeSet<K>>,
    owners: FxHashMap<K, BTreeSet<O>>,
}

impl<K, O> Default for Links<K, O> {
    fn default() -> Self {
        Self { keys: FxHashMap::default(), owners: FxHashMap::default() }
    }
}

impl<K: Clone + Ord + Hash, O: Clone + Ord + Hash> Links<K, O> {
    /// Puts an owner's keys in place of its former ones, which are returned.
    pub(super) fn set(&mut self, owner: &O, new: &BTreeSet<K>) -> BTreeSet<K> {
        let old = if new.is_empty() { self.keys.remove(owner) } else { self.keys.insert(owner.clone(), new.clone()) };
        let old = old.unwrap_or_default();
        for key in old.difference(new) {
            if let Some(owners) = self.owners.get_mut(key) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.owners.remove(key);
                }
            }
        }
        for key in new.difference(&old) {
            self.owners.entry(key.clone()).or_default().insert(owner.clone());
        }
        old
    }

    /// Who refers to a key, in order.
    pub(super) fn owners(&self, key: &K) -> impl Iterator<Item = &O> {
        self.owners.get(key).into_iter().flatten()
    }

    /// What an owner refers to, in order.
    pub(super) fn keys(&self, owner: &O) -> impl Iterator<Item = &K> {
        self.keys.get(owner).into_iter().flatten()
    }

    pub(super) fn all_keys(&self) -> impl Iterator<Item = &K> {
        self.owners.keys()
    }
}
