//! What works on this kernel and why not the rest: the kernel half of `mesh-agent status`.

use super::control::Control;
use super::heartbeat::monotonic_ns;
use super::load::{HOOKS, Loaded, Place};
use super::selftest::SelfTest;
use super::sync::Sync;
use super::{Config, maps, sys};
use serde::Serialize;
use std::fs::File;

/// How a former process's kernel state was treated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Adoption {
    /// There was none.
    Fresh,
    /// Same build: taken over as it was.
    Adopted,
    /// Other build, same ABI: maps kept, programs swapped.
    Upgraded,
    /// Unusable: removed and made anew.
    Replaced { why: String },
}

/// A place a program is attached at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HookStatus {
    pub name: &'static str,
    #[serde(flatten)]
    pub state: HookState,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum HookState {
    Attached,
    Adopted,
    Swapped,
    /// The same program at a cgroup above runs for it.
    Covered,
    Missing {
        why: String,
    },
}

/// What the node can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Capture and redirection.
    Full,
    /// Capture over plain TCP.
    NoRedirect,
}

/// Somebody else's program at one of our hooks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OtherProgram {
    pub hook: &'static str,
    pub id: u32,
    pub name: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub tier: Tier,
    pub abi: u32,
    /// First bytes of the object's digest.
    pub object: String,
    pub adoption: Adoption,
    pub hooks: Vec<HookStatus>,
    /// Redirection is switched on.
    pub sk_msg: bool,
    pub self_test: SelfTest,
    /// Age of the last beat; `None` before the first.
    pub beat_age_ms: Option<u64>,
    pub pods_cgroup: String,
    pub agent_cgroup: String,
    pub pin_dir: String,
    pub enrolled_pods: usize,
    /// Service addresses that did not fit into SERVICES.
    pub unplaced_addresses: usize,
    /// In the order in which the kernel runs them, ours left out. They may rewrite what we did.
    pub other_programs: Vec<OtherProgram>,
}

pub(super) fn status(config: &Config, loaded: &Loaded, control: &Control, self_test: &SelfTest, sync: &Sync) -> Status {
    let beat = maps::array::<u64>(&config.pin_dir, "BEAT").ok().and_then(|map| map.get(&0, 0).ok());
    let beat = beat.filter(|beat| *beat != 0);
    Status {
        tier: if control.sk_msg() { Tier::Full } else { Tier::NoRedirect },
        abi: mesh_common::ABI_VERSION,
        object: loaded.object.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        adoption: loaded.adoption.clone(),
        hooks: loaded.hooks.clone(),
        sk_msg: control.sk_msg(),
        self_test: self_test.clone(),
        beat_age_ms: beat.map(|beat| monotonic_ns().saturating_sub(beat) / 1_000_000),
        pods_cgroup: config.pods_cgroup.display().to_string(),
        agent_cgroup: config.agent_cgroup.display().to_string(),
        pin_dir: config.pin_dir.display().to_string(),
        enrolled_pods: sync.enrolled(),
        unplaced_addresses: sync.unplaced(),
        other_programs: others(config),
    }
}

/// Programs at our hooks that are not ours: a socket load balancer and a mesh that do not know of each other fight over
/// `connect()` (cilium#16583).
fn others(config: &Config) -> Vec<OtherProgram> {
    let links = super::load::links(&config.pin_dir);
    let ours: Vec<u32> = HOOKS
        .iter()
        .filter_map(|hook| sys::object(&links.join(hook.name)).and_then(|link| sys::link_info(&link)).ok())
        .map(|info| info.prog)
        .collect();
    let Ok(cgroup) = File::open(&config.pods_cgroup) else { return Vec::new() };
    HOOKS
        .iter()
        .filter(|hook| hook.place == Place::Pods)
        .flat_map(|hook| {
            let ids = sys::attached(&cgroup, hook.attach_type, true).unwrap_or_default();
            ids.into_iter().map(move |id| (hook.name, id))
        })
        .filter(|(_, id)| !ours.contains(id))
        .map(|(hook, id)| OtherProgram { hook, id, name: program_name(id) })
        .collect()
}

fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .unwrap_or_default()
}
