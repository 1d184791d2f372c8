//! How load is shared between priorities and localities while some of their endpoints are ejected (SEMANTICS §5
//! "Priority maths"). Pure.

use super::policy::Candidates;
use super::{EndpointState, Priorities};
use smallvec::SmallVec;
use std::sync::Arc;

/// Endpoints of one priority, or of one locality of `distribute`.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) priority: u8,
    /// Share among levels of one priority.
    pub(super) weight: u32,
    pub(super) hosts: Candidates,
}

/// What may be chosen at the moment.
#[derive(Debug)]
pub(super) struct View {
    /// Of the detector's ejections when the view was made.
    pub(super) version: u64,
    /// The endpoints of each level that may be chosen: not ejected ones, or all of them in panic.
    pub(super) levels: Vec<Arc<Level>>,
    /// Levels where ejected endpoints serve too.
    pub(super) panic: SmallVec<[bool; 4]>,
    health: SmallVec<[Health; 4]>,
    shares: Shares,
    /// Per cent of healthy endpoints below which a level panics; 0: never.
    threshold: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    pub(super) priority: u8,
    pub(super) weight: u32,
    pub(super) healthy: u32,
    pub(super) total: u32,
}

/// Tickets of each level.
type Shares = SmallVec<[u64; 4]>;

impl View {
    /// `threshold`: per cent. Levels are in order of priority.
    pub(super) fn new(all: &[Arc<Level>], threshold: u32, version: u64) -> Self {
        let health: SmallVec<[_; 4]> = all.iter().map(|level| level.health()).collect();
        let panic = panics(&health, threshold);
        let levels = all.iter().zip(&panic).zip(&health).map(|((level, panic), health)| {
            if *panic || health.healthy == health.total { Arc::clone(level) } else { Arc::new(level.healthy()) }
        });
        Self {
            version,
            levels: levels.collect(),
            shares: shares(&health, Priorities::default(), threshold > 0),
            panic,
            health,
            threshold,
        }
    }

    /// With nothing ejected.
    pub(super) fn whole(all: &[Arc<Level>]) -> Self {
        let health: SmallVec<[_; 4]> = all.iter().map(|level| level.unhurt()).collect();
        let panic = all.iter().map(|_| false).collect();
        let shares = shares(&health, Priorities::default(), false);
        Self { version: 0, levels: all.to_vec(), panic, health, shares, threshold: 0 }
    }

    /// The level of one attempt; `ticket(n)` is a number below n. `None` where nothing may be chosen.
    pub(super) fn level(&self, exclude: Priorities, ticket: impl FnOnce(u64) -> u64) -> Option<usize> {
        let others;
        let shares = if exclude == Priorities::default() {
            &self.shares
        } else {
            others = shares(&self.health, exclude, self.threshold > 0);
            &others
        };
        let total: u64 = shares.iter().sum();
        match shares.first() {
            Some(first) if *first == total && total > 0 => return Some(0),
            _ if total == 0 => return None,
            _ => {}
        }
        let mut ticket = ticket(total);
        shares.iter().position(|share| {
            let here = ticket < *share;
            ticket = ticket.saturating_sub(*share);
            here
        })
    }

    /// The first good endpoint: from `preferred` round its level, then in the other levels in order.
    pub(super) fn search(
        &self,
        level: usize,
        preferred: usize,
        good: impl Fn(&EndpointState) -> bool,
    ) -> Option<(usize, &Arc<EndpointState>)> {
        let states = |index: usize| self.levels.get(index).map_or(&[][..], |level| &level.hosts.states);
        let own = states(level);
        let (before, from) = own.split_at_checked(preferred).unwrap_or((own, &[]));
        let near = from.iter().chain(before).find(|state| good(state)).map(|state| (level, state));
        near.or_else(|| {
            let others = (0..self.levels.len()).filter(|other| *other != level);
            others.flat_map(|other| states(other).iter().map(move |s| (other, s))).find(|(_, state)| good(state))
        })
    }
}

impl Level {
    fn unhurt(&self) -> Health {
        let total = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        Health { priority: self.priority, weight: self.weight, healthy: total, total }
    }

    fn health(&self) -> Health {
        let healthy = self.hosts.states.iter().filter(|state| !state.is_ejected()).count();
        Health { healthy: u32::try_from(healthy).unwrap_or(u32::MAX), ..self.unhurt() }
    }

    fn healthy(&self) -> Self {
        let both = self.hosts.states.iter().zip(&self.hosts.weights).filter(|(state, _)| !state.is_ejected());
        let (states, weights) = both.map(|(state, weight)| (Arc::clone(state), *weight)).unzip();
        Self { hosts: Candidates::new(states, weights), ..*self }
    }
}

/// Availability of each level, per cent: healthy endpoints count 1.4 fold (Envoy's overprovisioning factor), so that 28 %
/// of a level may fail before others help.
fn availability(health: &Health) -> u64 {
    (u64::from(health.healthy) * 140).checked_div(u64::from(health.total)).unwrap_or(0).min(100)
}

/// A level panics where less than `threshold` per cent of it is healthy, unless all levels together can serve all.
fn panics(health: &[Health], threshold: u32) -> SmallVec<[bool; 4]> {
    let together: u64 = per_priority(health).iter().map(|(_, availability)| availability).sum();
    let below = |h: &Health| u64::from(h.healthy) * 100 < u64::from(threshold) * u64::from(h.total);
    health.iter().map(|h| together < 100 && below(h)).collect()
}

/// (Priority, availability) in order.
fn per_priority(health: &[Health]) -> SmallVec<[(u8, u64); 4]> {
    let mut sums: SmallVec<[Health; 4]> = SmallVec::new();
    for h in health {
        match sums.last_mut() {
            Some(last) if last.priority == h.priority => {
                last.healthy += h.healthy;
                last.total += h.total;
            }
            _ => sums.push(*h),
        }
    }
    sums.iter().map(|sum| (sum.priority, availability(sum))).collect()
}

/// Each level's tickets: priorities are filled in order up to their availability, in per cent of what is available
/// together; localities of one priority share its tickets by weight × availability.
///
/// 25 % and 25 % healthy: 35 and 35 of 70 available, so 50 and 50. All ejected: nothing, or with `panic` all by number.
fn shares(health: &[Health], exclude: Priorities, panic: bool) -> Shares {
    let mut available = per_priority(health);
    let rest: u64 = available.iter().filter(|(priority, _)| !exclude.contains(*priority)).map(|(_, a)| a).sum();
    if rest > 0 {
        available.iter_mut().filter(|(priority, _)| exclude.contains(*priority)).for_each(|(_, a)| *a = 0);
    }
    let together = available.iter().map(|(_, a)| a).sum::<u64>().min(100);
    if together == 0 {
        return health.iter().map(|h| if panic { u64::from(h.total) } else { 0 }).collect();
    }
    let mut left = 100_u64;
    let mut load: SmallVec<[(u8, u64); 4]> = available
        .iter()
        .map(|(priority, a)| {
            let load = (a * 100 / together).min(left);
            left -= load;
            (*priority, load)
        })
        .collect();
    // What rounding left over goes to the first priority that has anything.
    if let Some((_, first)) = load.iter_mut().find(|(_, load)| *load > 0) {
        *first += left;
    }
    let tickets = |h: &Health| u64::from(h.weight) * availability(h);
    let of = |priority: u8| load.iter().find(|(p, _)| *p == priority).map_or(0, |(_, load)| *load);
    let alone = |priority: u8| health.iter().filter(|h| h.priority == priority).count() == 1;
    health
        .iter()
        .map(|h| {
            if alone(h.priority) {
                of(h.priority)
            } else if of(h.priority) > 0 {
                tickets(h)
            } else {
                0
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "tests/levels.rs"]
mod tests;
