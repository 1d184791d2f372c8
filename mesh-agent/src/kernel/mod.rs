//! The user half of eBPF: load, attach, pin, adopt, fill the maps from a snapshot, read counters and events.
//!
//! Place in the path: before `listen`. `mesh-ebpf`'s hooks take the pods' connections; this module tells them which and
//! whereto, and [`FlowTable`] tells the workers what an accepted connection was meant for. The only user of aya.
//! [`Keeper`] is the privileged seam: everything that enters a pod's network namespace.
//!
//! Invariants: kernel state outlives the process (pins) and is adopted by the next one; what the kernel is told changes
//! make-before-break; a full map is counted, logged and shown, never silent.

mod control;
mod counters;
mod debug;
mod dump;
mod error;
mod events;
mod finder;
mod flows;
mod heartbeat;
mod ids;
mod keeper;
mod load;
mod maps;
mod marks;
mod mounts;
mod selftest;
mod sync;
mod sys;
mod tier;

pub use counters::{Counters, ServiceCounters};
pub use dump::{Dump, DumpRow, dump};
pub use error::KernelError;
pub use events::{Event, Events};
pub use flows::{FlowInfo, FlowTable};
pub use heartbeat::{Heartbeat, Ticks};
pub use keeper::{Family, Keeper, KeeperError, Netns, NetnsCookie, PodListeners};
pub use load::uninstall;
pub use marks::Marks;
pub use mesh_common::limits::Capacities;
pub use mesh_common::maps::FailurePolicy;
pub use mounts::{bpffs, cgroup2, own_cgroup, pods_cgroup};
pub use selftest::SelfTest;
pub use sync::{PrefixRule, SyncReport, Taker, Update, taker};
pub use sys::new_netns;
pub use tier::{Adoption, HookState, HookStatus, OtherProgram, Status, Tier};

use std::path::PathBuf;
use std::time::Duration;

/// How this instance is placed on the node.
#[derive(Clone, Debug)]
pub struct Config {
    /// cgroup2 folder above every pod of the node. The connect hooks are attached here.
    pub pods_cgroup: PathBuf,
    /// cgroup2 folder of the agent itself: its connections are left alone. May be inside `pods_cgroup`.
    pub agent_cgroup: PathBuf,
    /// Folder on bpffs for maps and links, made if missing: `<bpffs>/undermesh/<node>`. bpffs takes no dots in names.
    pub pin_dir: PathBuf,
    pub capacities: Capacities,
    /// What connections do that the agent or the kernel cannot place.
    pub failure: FailurePolicy,
    /// Another build of the programs instead of the embedded one: for trying out changes and upgrades.
    pub object: Option<PathBuf>,
    pub mode: Mode,
    /// Redirection between app and agent (sk_msg).
    pub sk_msg: SkMsg,
    /// A beat older than this is stale.
    pub beat_max_age: Duration,
    /// Write opens, closes and refusals to the event ring.
    pub events: bool,
    /// Programs write debug lines through aya-log.
    pub debug: bool,
}

impl Config {
    /// Defaults for the rest. Dots in the last part of `pin_dir` (node names have them) become underscores.
    pub fn new(pods_cgroup: PathBuf, agent_cgroup: PathBuf, pin_dir: PathBuf) -> Self {
        let pin_dir = match pin_dir.file_name() {
            Some(name) => pin_dir.with_file_name(name.to_string_lossy().replace('.', "_")),
            None => pin_dir,
        };
        Self {
            pods_cgroup,
            agent_cgroup,
            pin_dir,
            capacities: Capacities::DEFAULT,
            failure: FailurePolicy::Open,
            object: None,
            mode: Mode::Mesh,
            sk_msg: SkMsg::Auto,
            beat_max_age: Duration::from_secs(1),
            events: false,
            debug: false,
        }
    }
}

/// What the instance is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Enrolled pods: L7 ports to the agent, opaque ports to endpoints.
    Mesh,
    /// Every process under `pods_cgroup`, every port to an endpoint: what kube-proxy does. Attach it above the mesh's
    /// cgroup: the mesh's hooks run first.
    SocketLb,
}

/// Whether flows may be redirected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkMsg {
    /// On if the self-test passes on this kernel; it runs first.
    Auto,
    /// Off until [`Kernel::tested`] is told what [`SelfTest::run`] found, so that serving need not wait for the test.
    Later,
    On,
    Off,
}

/// The kernel half as this process drives it. Not `Clone`: the control thread owns it and hands out
/// [`FlowTable`], [`Counters`], [`Heartbeat`].
pub struct Kernel {
    config: Config,
    loaded: load::Loaded,
    control: control::Control,
    sync: sync::Sync,
    flows: FlowTable,
    marks: Marks,
    counters: Counters,
    self_test: SelfTest,
    _debug: Option<debug::DebugLog>,
}

impl Kernel {
    /// Loads and attaches the programs, or adopts what a former process of the same build left.
    ///
    /// Blocks for up to 300 ms: call it before the runtimes start. Errors name what the kernel or the machine lacks.
    /// Without [`Kernel::heartbeat`] nothing is sent to the agent.
    pub fn start(config: Config) -> Result<Self, KernelError> {
        let self_test = match config.sk_msg {
            SkMsg::Auto => selftest::run(&config),
            SkMsg::On => SelfTest::forced(true),
            SkMsg::Later => SelfTest::pending(),
            SkMsg::Off => SelfTest::forced(false),
        };
        // A node-wide load balancer leaves nobody out.
        let agent_cgroup = match config.mode {
            Mode::Mesh => mounts::cgroup_id(&config.agent_cgroup)?,
            Mode::SocketLb => 0,
        };
        Self::start_with(config, self_test, agent_cgroup)
    }

    fn start_with(config: Config, self_test: SelfTest, agent_cgroup: u64) -> Result<Self, KernelError> {
        let loaded = load::load(&config)?;
        let control =
            control::Control::open(&config, loaded.object, agent_cgroup, self_test.passed() && loaded.can_redirect())?;
        let counters = Counters::open(&config.pin_dir)?;
        let sync = sync::Sync::open(&config, counters.clone())?;
        let flows = FlowTable::open(&config.pin_dir)?;
        let marks = Marks::open(&config.pin_dir)?;
        let _debug = if config.debug { Some(debug::DebugLog::start(&config)?) } else { None };
        Ok(Self { config, loaded, control, sync, flows, marks, counters, self_test, _debug })
    }

    /// Original destinations for the workers.
    pub fn flows(&self) -> FlowTable {
        self.flows.clone()
    }

    /// Marks for the agent's own sockets.
    pub fn marks(&self) -> Marks {
        self.marks.clone()
    }

    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Starts the thread that beats while every worker ticks; it stops when the guard is dropped.
    pub fn heartbeat(&self, ticks: Ticks) -> Result<Heartbeat, KernelError> {
        Heartbeat::start(&self.config, ticks)
    }

    /// The event ring's reader; `None` if [`Config::events`] is off.
    pub fn events(&self) -> Result<Option<Events>, KernelError> {
        if self.config.events { Events::open(&self.config.pin_dir).map(Some) } else { Ok(None) }
    }

    /// Takes out of the kernel what a coming snapshot does not have; call it before the snapshot is published. In
    /// O(touched).
    pub fn retract(&mut self, update: &Update<'_>) -> SyncReport {
        self.sync.retract(update)
    }

    /// Brings services up to date with a snapshot, in O(touched). Additions come before removals; workloads that are
    /// no longer enrolled leave. Enrolment itself is [`Kernel::enrol`], once the pod's listeners are open.
    pub fn apply(&mut self, update: &Update<'_>) -> SyncReport {
        self.sync.apply(update)
    }

    /// Takes a pod's connections from now on. Call it when its listeners are open. `sk_msg`: the workload opted in to
    /// redirection on every port; followed only where the self-test found no limit.
    pub fn enrol(&mut self, workload: &crate::snapshot::WorkloadKey, netns: NetnsCookie, sk_msg: bool) -> SyncReport {
        self.sync.enrol(workload, netns, sk_msg && self.self_test.limits.is_empty())
    }

    /// Leaves a pod's new connections alone from now on. Call it before its listeners close.
    pub fn leave(&mut self, workload: &crate::snapshot::WorkloadKey) -> SyncReport {
        self.sync.leave(workload)
    }

    /// Sets or removes a rule for the addresses of a prefix, consulted where no service matches.
    pub fn prefix(&mut self, prefix: ipnet::IpNet, rule: Option<PrefixRule>) -> SyncReport {
        self.sync.prefix(prefix, rule)
    }

    /// After a restart, once every service has been applied and every pod enrolled: removes adopted entries that
    /// nobody claimed.
    pub fn sweep(&mut self) -> SyncReport {
        self.sync.sweep()
    }

    /// Switches redirection at run time. Flows already redirected fall back to TCP at their next message.
    pub fn set_sk_msg(&mut self, on: bool) -> Result<(), KernelError> {
        self.control.set_sk_msg(on && self.loaded.can_redirect())
    }

    /// Switches redirection as a self-test says.
    pub fn tested(&mut self, self_test: SelfTest) -> Result<(), KernelError> {
        self.self_test = self_test;
        self.set_sk_msg(self.self_test.passed())
    }

    pub fn status(&self) -> Status {
        tier::status(&self.config, &self.loaded, &self.control, &self.self_test, &self.sync)
    }

    /// Every map in plain text.
    pub fn dump(&self) -> Result<Dump, KernelError> {
        dump(&self.config.pin_dir)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}
