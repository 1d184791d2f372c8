//! Starts the kernel half and everything that captured pods need.

use super::{FailurePolicy, KernelOptions, SkMsg};
use crate::connect::Carries;
use crate::kernel::{self, Family, FlowTable, Heartbeat, Keeper, Kernel, Marks, Netns, NetnsCookie, SyncReport, Ticks};
use crate::listen::{Flow, Pod};
use crate::snapshot::{NetnsPlace, Workload, WorkloadKey};
use crate::worker::{Listening, Workers};
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Label on a pod that opts it in to socket redirection for all its captured connections, whatever their protocol.
const SK_MSG_LABEL: &str = "undermesh.dev/sk-msg";

const NEEDS: &str = "kernel half (it needs root; --no-kernel does without it)";

/// A worker that has not ticked for this long is hung: the heart stops, and new connections follow their failure policy.
pub(super) const STALL: Duration = Duration::from_millis(700);

/// What capturing pods takes; absent with `--no-kernel`.
pub(super) struct Captured {
    pub(super) kernel: Kernel,
    flows: FlowTable,
    marks: Marks,
    keeper: Keeper,
    workers: Arc<Workers>,
    /// Beating while this is there.
    heartbeat: Option<Heartbeat>,
}

impl Captured {
    /// # Errors
    /// When the keeper's thread cannot be started.
    pub(super) fn new(kernel: Kernel, workers: Arc<Workers>) -> Result<Self> {
        let keeper = Keeper::start().context("keeper thread")?;
        Ok(Self { flows: kernel.flows(), marks: kernel.marks(), kernel, keeper, workers, heartbeat: None })
    }

    /// Opens the agent's listeners in a pod's network namespace and serves them until the handle is dropped.
    pub(super) async fn open(
        &self,
        workload: &Arc<Workload>,
        netns: &NetnsPlace,
    ) -> Result<(Netns, Listening, Arc<Pod>), kernel::KeeperError> {
        // One listener per address is enough: an accepted connection goes to the least busy worker.
        let opened = self.keeper.open_listeners(netns, 1, super::BACKLOG).await?;
        if let Some(error) = &opened.v6_missing {
            tracing::debug!(pod = %workload.key, %error, "no IPv6 in this pod");
        }
        let netns = opened.netns;
        let listeners = opened.v4.into_iter().chain(opened.v6).collect();
        let pod = Arc::new(self.pod(Arc::clone(workload), netns.clone()));
        Ok((netns, self.workers.serve_captured(listeners, Arc::clone(&pod)), pod))
    }

    /// A pod's sandbox is being made: the pod is found by it from now on.
    pub(super) async fn remember(
        &self,
        uid: &Arc<str>,
        container: &str,
        netns: OwnedFd,
    ) -> Result<Netns, kernel::KeeperError> {
        self.keeper.hand_over(uid, container, netns).await
    }

    /// A sandbox goes.
    pub(super) fn forget(&self, container: &str) {
        self.keeper.forget(container);
    }

    /// Opens a gateway's port in its pod's network namespace and serves it until the handle is dropped.
    pub(super) async fn open_gate(
        &self,
        workload: &Arc<Workload>,
        netns: &NetnsPlace,
        port: u16,
    ) -> Result<(Netns, Listening), kernel::KeeperError> {
        let netns = self.keeper.open_netns(netns).await?;
        let listener = self.keeper.open_port(&netns, port, super::BACKLOG).await?;
        let pod = Arc::new(self.pod(Arc::clone(workload), netns.clone()));
        Ok((netns, self.workers.serve_gateway(listener, pod, port)))
    }

    /// Whether a pod has another network namespace than the one that was opened for it. One that is nowhere to be found
    /// is not replaced: it may go before its pod's object does.
    pub(super) async fn is_replaced(&self, place: &NetnsPlace, opened: &Netns) -> bool {
        self.found_anew(place, opened).await.is_some_and(|now| !now.is(opened))
    }

    /// What is at `place` now, where `opened` is not to be found any more by the path it was opened by: the same
    /// namespace by another path, or another one.
    pub(super) async fn found_anew(&self, place: &NetnsPlace, opened: &Netns) -> Option<Netns> {
        if opened.is_in_place() {
            return None;
        }
        self.keeper.open_netns(place).await.ok()
    }

    /// What `listen` and `connect` need to know of a pod, without knowing the kernel half.
    fn pod(&self, workload: Arc<Workload>, netns: Netns) -> Pod {
        let (flows, keeper, cookie) = (self.flows.clone(), self.keeper.clone(), netns.cookie());
        let marks = self.marks.clone();
        Pod {
            workload: ArcSwap::new(workload),
            cookie: cookie.0,
            find_flow: Arc::new(move |client, listener| {
                let flow = flows.lookup(cookie, client, listener)?;
                Some(Flow { orig: flow.orig, redirected_bytes: flow.redirected_bytes })
            }),
            open_socket: Arc::new(move |to, carries| {
                let (keeper, netns, marks) = (keeper.clone(), netns.clone(), marks.clone());
                Box::pin(async move {
                    let family = Family::from(&to.addr());
                    let socket = keeper.open_socket(&netns, family).await.map_err(io::Error::other)?;
                    if carries == Carries::Http2 {
                        marks.mark(&socket, to);
                    }
                    Ok(socket)
                })
            }),
        }
    }

    /// Takes a pod's connections from now on; its listeners are open.
    pub(super) fn enrol(&mut self, workload: &Workload, netns: NetnsCookie) -> SyncReport {
        let sk_msg = self.sk_msg_wanted(workload);
        let report = self.kernel.enrol(&workload.key, netns, sk_msg);
        if report.problems.is_empty() {
            self.marks.enter(workload, netns);
        }
        report
    }

    /// Leaves a pod's new connections alone from now on.
    pub(super) fn leave(&mut self, workload: &WorkloadKey) -> SyncReport {
        self.marks.leave(workload);
        self.kernel.leave(workload)
    }

    fn sk_msg_wanted(&self, workload: &Workload) -> bool {
        workload.labels.get(SK_MSG_LABEL).is_some_and(|value| matches!(&**value, "on" | "true" | "enabled"))
    }

    /// The connect hooks believe in this agent.
    pub(super) fn is_beating(&self) -> bool {
        let age = self.kernel.status().beat_age_ms;
        age.is_some_and(|age| u128::from(age) < self.kernel.config().beat_max_age.as_millis())
    }

    /// Lets the connect hooks believe in this agent. Call it when the pods' listeners are open.
    pub(super) fn beat(&mut self) -> Result<()> {
        if self.heartbeat.is_none() {
            let ticks = Ticks::of(self.workers.ticks(), STALL);
            self.heartbeat = Some(self.kernel.heartbeat(ticks).context("heartbeat")?);
        }
        Ok(())
    }
}

/// Loads or adopts the programs.
pub(super) fn start_kernel(options: &KernelOptions, node: &str) -> Result<Kernel> {
    let config = kernel_config(options, node).context(NEEDS)?;
    let place = format!("hooks on {}, pins in {}", config.pods_cgroup.display(), config.pin_dir.display());
    let kernel = Kernel::start(config).context(NEEDS)?;
    tracing::info!("kernel half ready: {place}");
    Ok(kernel)
}

fn kernel_config(options: &KernelOptions, node: &str) -> Result<kernel::Config> {
    let pods_cgroup = match &options.pods_cgroup {
        Some(path) => path.clone(),
        None => kernel::pods_cgroup()?,
    };
    let pin_dir = match &options.pin_dir {
        Some(path) => path.clone(),
        None => default_pin_dir(node)?,
    };
    let mut config = kernel::Config::new(pods_cgroup, kernel::own_cgroup()?, pin_dir);
    config.capacities.flows = options.capacities.flows;
    config.capacities.services = options.capacities.services;
    config.capacities.endpoints = options.capacities.endpoints;
    config.capacities.pods = options.capacities.pods;
    config.capacities.socks = options.capacities.flows.saturating_mul(2);
    config.sk_msg = match options.sk_msg {
        SkMsg::Auto => kernel::SkMsg::Later,
        SkMsg::Off => kernel::SkMsg::Off,
    };
    config.failure = match options.failure_policy {
        FailurePolicy::Open => kernel::FailurePolicy::Open,
        FailurePolicy::Closed => kernel::FailurePolicy::Closed,
    };
    Ok(config)
}

/// `<bpffs>/undermesh/<node>`; a dot cannot be pinned, so `n1.example` becomes `n1_example`.
fn default_pin_dir(node: &str) -> Result<PathBuf> {
    Ok(kernel::bpffs()?.join("undermesh").join(node.replace('.', "_")))
}
