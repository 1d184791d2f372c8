//! Tells the kernel which of the agent's own connections end in a pod of this node, so that redirection (sk_msg) serves
//! that half of the path too.
//!
//! Place in the path: `connect` marks a socket before it dials. The mark lies in the socket's storage, which only a
//! privileged process writes, and names the endpoint's network namespace: both ends are proven, by us and by the kernel.

use super::keeper::NetnsCookie;
use super::{KernelError, maps};
use crate::addr::EndpointAddr;
use crate::snapshot::{Workload, WorkloadKey};
use aya::maps::{MapData, SkStorage};
use mesh_common::maps::{ORIG_SK_MSG, ORIG_UPSTREAM, Orig};
use rustc_hash::FxHashMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Handle on the marks; cheap to clone, usable from every worker.
#[derive(Clone)]
pub struct Marks(Arc<Mutex<Inner>>);

struct Inner {
    marks: SkStorage<MapData, Orig>,
    /// Enrolled pods of this node.
    pods: FxHashMap<IpAddr, (WorkloadKey, NetnsCookie)>,
}

impl Marks {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        let inner = Inner { marks: maps::sk_storage(pin_dir, "ORIG")?, pods: FxHashMap::default() };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// The pod is enrolled: connections to it may be redirected from now on.
    pub fn enter(&self, workload: &Workload, netns: NetnsCookie) {
        self.with(|inner| inner.pods.extend(workload.ips.iter().map(|ip| (*ip, (workload.key.clone(), netns)))));
    }

    /// New connections to it stay on TCP.
    pub fn leave(&self, workload: &WorkloadKey) {
        self.with(|inner| inner.pods.retain(|_, (key, _)| key != workload));
    }

    /// Marks an unconnected socket for its endpoint, if that is an enrolled pod of this node. Without the mark, for
    /// whatever reason, the connection stays on TCP.
    pub fn mark(&self, socket: &OwnedFd, to: EndpointAddr) {
        self.with(|inner| {
            let Some((_, netns)) = inner.pods.get(&to.ip()) else { return };
            let flags = ORIG_UPSTREAM | ORIG_SK_MSG;
            let mark = Orig { dst: to.addr().into(), flags, netns: netns.0, ..Orig::default() };
            if let Err(error) = inner.marks.insert(socket, mark, 0) {
                tracing::debug!(%to, %error, "a connection stays on TCP");
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // Nothing in here panics between two changes that belong together.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}
