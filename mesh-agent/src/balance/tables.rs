//! The tables of a cluster's levels: made once, and where that takes long beside the path.

use super::levels::Level;
use super::table::Table;
use super::{Cluster, EndpointState};
use crate::snapshot::policy::HashTable;
use arc_swap::ArcSwapOption;
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(super) struct Tables {
    kind: HashTable,
    /// One for each level.
    made: OnceLock<Vec<Table>>,
    cost: u64,
    /// Serves until `made` is there.
    former: ArcSwapOption<Cluster>,
}

/// Tables of fewer entries are made where they are first needed: 2,048 take some 100 µs.
const CHEAP: u64 = 2048;
/// Entries of a table that are looked at for an endpoint that may be chosen, before any will do.
const LOOKS: usize = 256;

impl Tables {
    pub(super) fn new(kind: HashTable, levels: &[Arc<Level>]) -> Self {
        let cost = levels.iter().map(|level| Table::cost(kind, level.hosts.len())).sum();
        Self { kind, made: OnceLock::new(), cost, former: ArcSwapOption::empty() }
    }

    pub(super) fn are_cheap(&self) -> bool {
        self.cost <= CHEAP
    }

    pub(super) fn are_ready(&self) -> bool {
        self.made.get().is_some()
    }

    pub(super) fn borrow_from(&self, former: Option<Arc<Cluster>>) {
        self.former.store(former);
    }

    /// Waits where somebody else is at it.
    pub(super) fn fill(&self, levels: &[Arc<Level>]) {
        self.made.get_or_init(|| {
            let of = |level: &Arc<Level>| {
                let hosts = level.hosts.states.iter().zip(&level.hosts.weights);
                Table::new(self.kind, &hosts.map(|(state, weight)| (state.addr, *weight)).collect::<Vec<_>>())
            };
            levels.iter().map(of).collect()
        });
        self.former.store(None);
    }

    /// The endpoint of a hash, or the first one after it that is good. `None`: no good one is near.
    pub(super) fn find<'a>(
        &self,
        levels: &'a [Arc<Level>],
        level: usize,
        hash: u64,
        good: impl Fn(&EndpointState) -> bool,
    ) -> Option<&'a Arc<EndpointState>> {
        let hosts = &levels.get(level)?.hosts.states;
        if self.made.get().is_none() {
            if let Some(addr) = self.former.load().as_ref().and_then(|former| former.by_table(hash))
                && let Some(state) = hosts.iter().find(|state| state.addr == addr && good(state))
            {
                return Some(state);
            }
            self.fill(levels);
        }
        let table = self.made.get()?.get(level)?;
        table.hosts(hash).take(LOOKS).filter_map(|host| hosts.get(host)).find(|state| good(state))
    }
}
