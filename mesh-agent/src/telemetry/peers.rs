//! Which label sets have series: a budget, and an end for those whose endpoint has gone.
//!
//! Prometheus keeps a series for ever once it was touched; pods come and go. A label set is dropped when nobody counts
//! under it and the configuration has not named its endpoint for [`KEPT`].

use crate::time::Nanos;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Label sets, those of `undermesh_requests_total` with their codes included.
pub(super) const MOST_SERIES: usize = 20_000;
/// Long enough for whoever scrapes to have seen the last value.
const KEPT: Duration = Duration::from_secs(600);
const OVERFLOW: &str = "overflow";

/// `source_namespace`, `source_workload`, `destination_service`, `endpoint`.
pub(super) type Labels = [Arc<str>; 4];
/// `code`, `grpc_status`, `response_flags`.
pub(super) type CodeLabels = [String; 3];

/// One label set. Whoever counts under it holds it.
#[derive(Debug)]
pub(super) struct Peer {
    labels: Labels,
    codes: Mutex<Vec<CodeLabels>>,
}

#[derive(Debug)]
pub(super) struct Peers {
    known: Mutex<Known>,
    most: usize,
    /// Stands for all that were refused.
    overflow: Arc<Peer>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the time at which it was first seen without an endpoint.
    peers: FxHashMap<Labels, (Arc<Peer>, Option<Nanos>)>,
    /// Label sets in use of the budget.
    used: usize,
}

impl Peer {
    pub(super) fn values(&self) -> [&str; 4] {
        self.labels.each_ref().map(|label| &**label)
    }

    pub(super) fn service(&self) -> &str {
        self.values()[2]
    }

    pub(super) fn endpoint(&self) -> &str {
        self.values()[3]
    }

    /// All labels of one series of `undermesh_requests_total`.
    pub(super) fn with<'a>(&'a self, codes: &'a CodeLabels) -> [&'a str; 7] {
        let ([a, b, c, d], [e, f, g]) = (self.values(), codes.each_ref().map(String::as_str));
        [a, b, c, d, e, f, g]
    }

    pub(super) fn codes(&self) -> MutexGuard<'_, Vec<CodeLabels>> {
        lock(&self.codes)
    }
}

impl Peers {
    pub(super) fn new(most: usize) -> Self {
        let overflow = Arc::new(Peer { labels: std::array::from_fn(|_| OVERFLOW.into()), codes: Mutex::default() });
        Self { known: Mutex::default(), most, overflow }
    }

    /// The label set's entry; `Err` with the one for overflow where the budget is used up.
    pub(super) fn admit(&self, labels: Labels) -> Result<Arc<Peer>, Arc<Peer>> {
        let mut known = lock(&self.known);
        if let Some((peer, _)) = known.peers.get(&labels) {
            return Ok(Arc::clone(peer));
        }
        if known.used >= self.most {
            return Err(Arc::clone(&self.overflow));
        }
        known.used += 1;
        let peer = Arc::new(Peer { labels: labels.clone(), codes: Mutex::default() });
        known.peers.insert(labels, (Arc::clone(&peer), None));
        Ok(peer)
    }

    /// Whether the peer may have a series for these codes.
    pub(super) fn admit_codes(&self, peer: &Arc<Peer>, codes: &CodeLabels) -> bool {
        let mut known = lock(&self.known);
        let mut of_peer = peer.codes();
        if of_peer.contains(codes) {
            return true;
        }
        if known.used >= self.most || Arc::ptr_eq(peer, &self.overflow) {
            return false;
        }
        known.used += 1;
        of_peer.push(codes.clone());
        true
    }

    /// The label set of what was refused.
    pub(super) fn overflow_codes() -> [&'static str; 7] {
        [OVERFLOW; 7]
    }

    /// Takes out and returns what has been without an endpoint for long enough. `alive` is told service and endpoint.
    pub(super) fn sweep(&self, now: Nanos, alive: impl Fn(&str, &str) -> bool) -> Vec<Arc<Peer>> {
        let mut known = lock(&self.known);
        let mut gone = Vec::new();
        known.peers.retain(|_, (peer, since)| {
            if Arc::strong_count(peer) > 1 || alive(peer.service(), peer.endpoint()) {
                *since = None;
                return true;
            }
            let stays = now.since(*since.get_or_insert(now)) < KEPT;
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        let freed: usize = gone.iter().map(|peer| 1 + peer.codes().len()).sum();
        known.used = known.used.saturating_sub(freed);
        gone
    }
}

/// Counters stay usable whatever panicked elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(endpoint: &str) -> Labels {
        ["shop".into(), "web".into(), "db.shop".into(), endpoint.into()]
    }

    fn codes(code: &str) -> CodeLabels {
        [code.to_owned(), String::new(), "-".to_owned()]
    }

    #[test]
    fn the_budget_holds_and_what_goes_gives_its_share_back() {
        let peers = Peers::new(3);
        let first = peers.admit(labels("10.0.0.1:80")).unwrap();
        assert!(peers.admit_codes(&first, &codes("200")) && peers.admit_codes(&first, &codes("503")));
        assert!(peers.admit_codes(&first, &codes("200")), "known already");
        assert!(!peers.admit_codes(&first, &codes("404")));
        let refused = peers.admit(labels("10.0.0.2:80")).unwrap_err();
        assert_eq!(refused.values(), [OVERFLOW; 4]);
        assert!(!peers.admit_codes(&refused, &codes("200")));
        drop(first);
        let now = Nanos(1);
        assert!(peers.sweep(now, |_, _| false).is_empty());
        assert_eq!(peers.sweep(now.plus(KEPT), |_, _| false).len(), 1);
        let second = peers.admit(labels("10.0.0.2:80")).unwrap();
        assert!(peers.admit_codes(&second, &codes("200")));
    }

    #[test]
    fn only_what_nobody_holds_and_nothing_names_goes() {
        let peers = Peers::new(10);
        let held = peers.admit(labels("held")).unwrap();
        for endpoint in ["alive", "back", "gone"] {
            peers.admit(labels(endpoint)).unwrap();
        }
        let mut now = Nanos(1);
        assert!(peers.sweep(now, |_, endpoint| endpoint == "alive").is_empty());
        now = now.plus(KEPT / 2);
        // Named again for a moment: its time starts anew.
        assert!(peers.sweep(now, |_, endpoint| endpoint != "gone").is_empty());
        now = now.plus(KEPT / 2);
        let gone = peers.sweep(now, |service, endpoint| service == "db.shop" && endpoint == "alive");
        assert_eq!(gone.iter().map(|peer| peer.endpoint()).collect::<Vec<_>>(), ["gone"]);
        assert_eq!(held.endpoint(), "held");
    }
}
