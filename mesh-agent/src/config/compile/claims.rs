//! Who owns an address that several objects claim: the oldest (SEMANTICS §1), whatever order they arrived in.

use super::index::Age;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::hash::Hash;

/// Addresses `A` claimed by owners `O`.
#[derive(Debug)]
pub(super) struct Claims<A, O> {
    claimants: FxHashMap<A, BTreeSet<(Age, O)>>,
    held: FxHashMap<O, (Age, Vec<A>)>,
}

impl<A, O> Default for Claims<A, O> {
    fn default() -> Self {
        Self { claimants: FxHashMap::default(), held: FxHashMap::default() }
    }
}

impl<A: Clone + Eq + Hash, O: Clone + Ord + Hash> Claims<A, O> {
    /// Puts an owner's claims in place of its former ones. Returns the addresses whose set of claimants changed.
    pub(super) fn set(&mut self, owner: &O, age: &Age, addrs: &[A]) -> Vec<A> {
        if self.held.get(owner).is_some_and(|(a, held)| a == age && held == addrs) {
            return Vec::new();
        }
        let mut changed = self.clear(owner);
        if !addrs.is_empty() {
            for addr in addrs {
                self.claimants.entry(addr.clone()).or_default().insert((age.clone(), owner.clone()));
            }
            changed.extend(addrs.iter().filter(|addr| !changed.contains(addr)).cloned().collect::<Vec<_>>());
            self.held.insert(owner.clone(), (age.clone(), addrs.to_vec()));
        }
        changed
    }

    /// Drops an owner's claims. Returns the addresses it had claimed.
    pub(super) fn clear(&mut self, owner: &O) -> Vec<A> {
        let Some((age, addrs)) = self.held.remove(owner) else { return Vec::new() };
        let entry = (age, owner.clone());
        for addr in &addrs {
            if let Some(claimants) = self.claimants.get_mut(addr) {
                claimants.remove(&entry);
                if claimants.is_empty() {
                    self.claimants.remove(addr);
                }
            }
        }
        addrs
    }

    pub(super) fn winner(&self, addr: &A) -> Option<&O> {
        self.claimants.get(addr)?.first().map(|(_, owner)| owner)
    }

    pub(super) fn claimants(&self, addr: &A) -> impl Iterator<Item = &O> {
        self.claimants.get(addr).into_iter().flatten().map(|(_, owner)| owner)
    }
}
