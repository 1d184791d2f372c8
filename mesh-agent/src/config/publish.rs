//! Update → in force, make-before-break.
//!
//! Place in the path: after `compile`, before the data path and the kernel. One snapshot serves additions and removals
//! at once, so the order is: the kernel forgets what is gone → the agent's snapshot is swapped → the kernel learns what
//! is new. At no moment does the kernel send the agent (or an endpoint) a connection that the snapshot cannot place.

use super::compile::Update;
use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// One half of a publication, as the kernel's side sees it.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Take out what is in `old` and not in `new`; the agent still answers by `old`.
    Remove { old: &'a Snapshot, new: &'a Snapshot, update: &'a Update },
    /// Put in what is in `new`; the agent already answers by it.
    Add { old: &'a Snapshot, new: &'a Snapshot, update: &'a Update },
}

/// Puts updates in force. `kernel` is called twice for each and reports its own troubles: a kernel that cannot take an
/// update (a full map) degrades that service by its failure policy, it never keeps the agent on old configuration.
pub struct Publisher<K> {
    current: Arc<ArcSwap<Snapshot>>,
    kernel: K,
}

impl<K: FnMut(Step<'_>)> Publisher<K> {
    pub fn new(current: Arc<ArcSwap<Snapshot>>, kernel: K) -> Self {
        Self { current, kernel }
    }

    /// Returns whether anything changed. An update without change is not published: its generation is the current one.
    pub fn publish(&mut self, update: &Update) -> bool {
        if !update.is_change() {
            return false;
        }
        let old = self.current.load_full();
        (self.kernel)(Step::Remove { old: &old, new: &update.snapshot, update });
        self.current.store(Arc::clone(&update.snapshot));
        (self.kernel)(Step::Add { old: &old, new: &update.snapshot, update });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ServiceName;
    use std::cell::RefCell;

    #[test]
    fn removals_reach_the_kernel_first_and_additions_last() {
        let current = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let seen = RefCell::new(Vec::new());
        let mut publisher = Publisher::new(Arc::clone(&current), |step: Step<'_>| {
            let name = match step {
                Step::Remove { .. } => "remove",
                Step::Add { .. } => "add",
            };
            seen.borrow_mut().push((name, current.load().generation));
        });
        let mut snapshot = Snapshot::default();
        snapshot.generation = 7;
        let mut update = Update {
            snapshot: Arc::new(snapshot),
            touched_services: vec![ServiceName::new("a", "b")],
            touched_workloads: Vec::new(),
            touched_hosts: Vec::new(),
            touched_scopes: false,
            touched_telemetry: false,
            touched_gateways: false,
            diagnostics: Vec::new(),
        };
        assert!(publisher.publish(&update));
        assert_eq!(*seen.borrow(), [("remove", 0), ("add", 7)]);
        update.touched_services.clear();
        assert!(!publisher.publish(&update));
        assert_eq!(seen.borrow().len(), 2);
    }
}
