//! Which pods of this node are captured, and the order in which each comes and goes.
//!
//! Coming: listeners open in the pod's namespace, then the kernel sends connections there. Going: the kernel stops
//! first, then, after [`LINGER`], the listeners close; accepted connections finish on their own. So no connection is
//! ever sent to a listener that is not there. Labels may change on running pods, in either direction and fast.

use super::parts::Captured;
use crate::kernel::{KeeperError, Netns};
use crate::listen;
use crate::snapshot::{Enrolment, NetnsPlace, Snapshot, Workload, WorkloadKey};
use crate::worker::Listening;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that were on their way when the kernel stopped are accepted for this long.
pub(super) const LINGER: Duration = Duration::from_millis(500);

/// How often what did not work is tried again, and network namespaces are looked at: one may be replaced under its old
/// path (a pod restarted by hand).
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pods {
    known: BTreeMap<WorkloadKey, Pod>,
    recheck: Option<Instant>,
}

#[derive(Debug)]
struct Pod {
    netns: NetnsPlace,
    /// `None` while the listeners could not be opened.
    open: Option<Open>,
    state: State,
}

/// A pod's listeners; closed when dropped.
#[derive(Debug)]
struct Open {
    netns: Netns,
    /// As the kernel knows it.
    workload: Arc<Workload>,
    /// As the listeners' connections know it.
    pod: Arc<listen::Pod>,
    _listening: Listening,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    In,
    Leaving {
        until: Instant,
    },
    /// Tried again at the next recheck.
    Failed(String),
}

impl Pods {
    /// Stops the capture of pods that `snapshot` does not enrol (any more). Call it before the snapshot is published.
    pub(super) fn release(&mut self, snapshot: &Snapshot, parts: &mut Captured, now: Instant) {
        self.leave(parts, now, |key, netns| wanted(snapshot, key) == Some(netns));
    }

    /// Stops the capture of every pod.
    pub(super) fn release_all(&mut self, parts: &mut Captured, now: Instant) {
        self.leave(parts, now, |_, _| false);
    }

    /// Closes every listener; accepted connections go on.
    pub(super) fn close(&mut self) {
        self.known.clear();
    }

    /// Captures the pods that `snapshot` enrols. Call it when the snapshot is published and the kernel knows its
    /// services.
    pub(super) async fn enrol(&mut self, snapshot: &Snapshot, parts: &mut Captured) {
        self.enrol_all(snapshot, parts, false).await;
    }

    /// Closes what has lingered, retries what failed, notices replaced namespaces. Call it at [`Pods::deadline`].
    pub(super) async fn tick(&mut self, snapshot: &Snapshot, parts: &mut Captured, now: Instant) {
        self.known.retain(|_, pod| !matches!(pod.state, State::Leaving { until } if until <= now));
        if self.recheck.is_some_and(|at| at > now) {
            return;
        }
        self.recheck = Some(now + RECHECK);
        self.known.retain(|key, pod| !matches!(pod.state, State::Failed(_)) || wanted(snapshot, key).is_some());
        let mut found = Vec::new();
        for (key, pod) in &self.known {
            if let Some(open) = &pod.open
                && let Some(now) = parts.found_anew(&pod.netns, &open.netns).await
            {
                found.push((key.clone(), now));
            }
        }
        for (key, now) in found {
            self.moved(&key, &now, parts);
        }
        self.enrol_all(snapshot, parts, true).await;
    }

    /// The pod's network namespace is `now`: if it is another one than was opened, that one's listeners close.
    pub(super) fn moved(&mut self, key: &WorkloadKey, now: &Netns, parts: &mut Captured) {
        let Some(open) = self.known.get_mut(key).and_then(|pod| pod.open.as_mut()) else { return };
        if now.is(&open.netns) {
            open.netns = now.clone();
            return;
        }
        tracing::info!(pod = %key, "its network namespace was replaced");
        log_problems(&parts.leave(key));
        self.known.remove(key);
    }

    /// When `tick` has something to do.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let lingering = self.known.values().filter_map(|pod| match pod.state {
            State::Leaving { until } => Some(until),
            State::In | State::Failed(_) => None,
        });
        lingering.chain(self.recheck).min().unwrap_or(now)
    }

    /// Why an enrolled pod is not captured; `None` if it is.
    pub(super) fn trouble(&self, key: &WorkloadKey) -> Option<String> {
        match self.known.get(key).map(|pod| &pod.state) {
            Some(State::In) => None,
            Some(State::Failed(why)) => Some(why.clone()),
            Some(State::Leaving { .. }) => Some("leaving the mesh".into()),
            None => Some("not taken in yet".into()),
        }
    }

    fn leave(&mut self, parts: &mut Captured, now: Instant, stays: impl Fn(&WorkloadKey, &NetnsPlace) -> bool) {
        for (key, pod) in &mut self.known {
            if pod.state == State::In && !stays(key, &pod.netns) {
                log_problems(&parts.leave(key));
                tracing::info!(pod = %key, "left the mesh: its new connections go direct");
                pod.state = State::Leaving { until: now + LINGER };
            }
        }
    }

    async fn enrol_all(&mut self, snapshot: &Snapshot, parts: &mut Captured, retry: bool) {
        for workload in snapshot.workloads() {
            let Enrolment::Enrolled { netns } = &workload.enrolment else { continue };
            let former = self.known.remove(&workload.key).filter(|pod| pod.netns == *netns);
            let pod = match former {
                // A pod's first process and the change of its object that brought us here come together.
                Some(Pod { state: State::Failed(_), netns: NetnsPlace::Path(_), .. }) if !retry => former,
                Some(Pod { state: State::In, open: Some(open), .. }) if open.workload == *workload => {
                    Some(Pod { netns: netns.clone(), open: Some(open), state: State::In })
                }
                former => Some(take_in(former, workload, netns, parts).await),
            };
            self.known.extend(pod.map(|pod| (workload.key.clone(), pod)));
        }
    }
}

/// Opens listeners, unless they are open (the pod's labels or addresses changed, or it comes back), then tells the
/// kernel. Open ones stay: a connection that comes meanwhile must find them.
async fn take_in(former: Option<Pod>, workload: &Arc<Workload>, netns: &NetnsPlace, parts: &mut Captured) -> Pod {
    let key = &workload.key;
    let failed_before = matches!(&former, Some(Pod { state: State::Failed(_), .. }));
    let was_in = matches!(&former, Some(Pod { state: State::In, .. }));
    let open = match former.and_then(|pod| pod.open) {
        Some(mut open) => {
            open.workload = Arc::clone(workload);
            open.pod.workload.store(Arc::clone(workload));
            Ok(open)
        }
        None => parts.open(workload, netns).await.map(|(opened, listening, pod)| Open {
            netns: opened,
            workload: Arc::clone(workload),
            pod,
            _listening: listening,
        }),
    };
    // A pod that is just starting, or going, is no trouble.
    let absent = open.as_ref().is_err_and(KeeperError::is_absent);
    let taken = open.map_err(|error| (error.to_string(), None)).and_then(|open| {
        let report = parts.enrol(workload, open.netns.cookie());
        match report.problems.into_iter().next() {
            Some(problem) => Err((problem, Some(open))),
            None => Ok(open),
        }
    });
    let netns = netns.clone();
    match taken {
        Ok(open) => {
            if !was_in {
                tracing::info!(pod = %key, %netns, "in the mesh");
            }
            Pod { netns, open: Some(open), state: State::In }
        }
        Err((why, open)) => {
            if absent {
                tracing::debug!(pod = %key, "not taken in yet: {why}");
            } else if !failed_before {
                tracing::warn!(pod = %key, "cannot take the pod in, trying again every second: {why}");
            }
            Pod { netns, open, state: State::Failed(why) }
        }
    }
}

pub(super) fn log_problems(report: &crate::kernel::SyncReport) {
    for problem in &report.problems {
        tracing::warn!("kernel: {problem}");
    }
}

fn wanted<'a>(snapshot: &'a Snapshot, key: &WorkloadKey) -> Option<&'a NetnsPlace> {
    match &snapshot.workload(key)?.enrolment {
        Enrolment::Enrolled { netns } => Some(netns),
        _ => None,
    }
}
