//! Endpoint sets in `ENDPOINTS`: written whole under a new id, never changed, removed whole.

use super::super::{KernelError, maps};
use aya::maps::MapError;
use mesh_common::Addr;
use mesh_common::alias;
use mesh_common::maps::{EndpointKey, EndpointSlot};
use rustc_hash::FxHashSet;
use std::path::Path;

/// A set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Set {
    pub(super) id: u32,
    pub(super) endpoints: Vec<(Addr, u32)>,
}

#[derive(Debug)]
pub(super) struct Sets {
    map: maps::Table<EndpointKey, EndpointSlot>,
    next: u32,
    /// Slots of a former process.
    adopted: FxHashSet<EndpointKey>,
}

impl Sets {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        let map: maps::Table<EndpointKey, EndpointSlot> = maps::hash(pin_dir, "ENDPOINTS")?;
        let adopted: FxHashSet<EndpointKey> = map.keys().filter_map(Result::ok).collect();
        let next = adopted.iter().map(|key| key.set).max().unwrap_or(0).wrapping_add(1).max(1);
        Ok(Self { map, next, adopted })
    }

    /// Writes a set under a new id; an empty one needs no entry. Nothing stays behind on error.
    pub(super) fn write(&mut self, endpoints: &[(Addr, u32)]) -> Result<Set, MapError> {
        let id = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        let weights: Vec<u32> = endpoints.iter().map(|(_, weight)| *weight).collect();
        for (slot, (entry, (own, _))) in alias::table(&weights).iter().zip(endpoints).enumerate() {
            let alias = endpoints.get(entry.alias as usize).map_or(*own, |(addr, _)| *addr);
            let value = EndpointSlot { own: *own, alias, threshold: entry.threshold };
            if let Err(error) = self.map.insert(EndpointKey { set: id, slot: slot as u32 }, value, 0) {
                self.remove_slots(id, slot as u32);
                return Err(error);
            }
        }
        Ok(Set { id, endpoints: endpoints.to_vec() })
    }

    /// Returns the number of entries removed.
    pub(super) fn remove(&mut self, set: &Set) -> usize {
        self.remove_slots(set.id, set.endpoints.len() as u32)
    }

    /// Removes what a former process left.
    pub(super) fn sweep(&mut self) -> usize {
        let adopted = std::mem::take(&mut self.adopted);
        adopted.iter().filter(|key| self.map.remove(*key).is_ok()).count()
    }

    fn remove_slots(&mut self, set: u32, slots: u32) -> usize {
        (0..slots).filter(|slot| self.map.remove(&EndpointKey { set, slot: *slot }).is_ok()).count()
    }
}
