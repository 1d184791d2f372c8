//! Every map in plain text, for `mesh-agent kernel`. Works from the pins, so it needs no running agent.

use super::ids::name_of;
use super::{KernelError, maps};
use mesh_common::maps::{
    Control, EndpointKey, EndpointSlot, Flow, FlowKey, Name, ORIG_SK_MSG, Pod, PrefixData, ServiceStats, Target,
    Verdict,
};
use mesh_common::{Addr, Reason};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Rows of all maps.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Dump {
    pub rows: Vec<DumpRow>,
}

/// One entry: its map, key and value in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DumpRow {
    pub map: &'static str,
    pub key: String,
    pub value: String,
}

/// Decodes the maps pinned in `pin_dir`. An entry that vanishes meanwhile is left out.
pub fn dump(pin_dir: &Path) -> Result<Dump, KernelError> {
    let names = maps::hash(pin_dir, "NAMES")?;
    let mut rows = Vec::new();
    control(pin_dir, &mut rows)?;
    for (cookie, pod) in maps::hash::<u64, Pod>(pin_dir, "PODS")?.iter().filter_map(Result::ok) {
        let who = if cookie == mesh_common::maps::ANY_NETNS { "any".into() } else { format!("netns {cookie}") };
        rows.push(row("PODS", who, format!("{} flags={:#x}", name_of(&names, pod.workload), pod.flags)));
    }
    for (addr, entry) in maps::hash::<Addr, Target>(pin_dir, "SERVICES")?.iter().filter_map(Result::ok) {
        let key = if addr == Addr::any(addr.port) { format!("any:{}", addr.port) } else { text(addr) };
        rows.push(row("SERVICES", key, target(&names, &entry)));
    }
    let prefixes = maps::trie::<PrefixData, Target>(pin_dir, "PREFIXES")?;
    for (key, entry) in prefixes.iter().filter_map(Result::ok) {
        rows.push(row("PREFIXES", prefix(key.data(), key.prefix_len()), target(&names, &entry)));
    }
    let endpoints = maps::hash::<EndpointKey, EndpointSlot>(pin_dir, "ENDPOINTS")?;
    for (key, slot) in endpoints.iter().filter_map(Result::ok) {
        // (threshold + 1) / 2^32 as a percentage.
        let share = (f64::from(slot.threshold) + 1.0) / 4_294_967_296.0 * 100.0;
        let value = format!("{} {share:.1}% else {}", text(slot.own), text(slot.alias));
        rows.push(row("ENDPOINTS", format!("set {} slot {}", key.set, key.slot), value));
    }
    for (key, flow) in maps::hash::<FlowKey, Flow>(pin_dir, "FLOWS")?.iter().filter_map(Result::ok) {
        let key_text = format!("netns {} {} -> {}", key.netns, text(key.local), text(key.remote));
        rows.push(row("FLOWS", key_text, flow_text(&names, &flow)));
    }
    for (id, cpus) in maps::per_cpu_hash::<u32, ServiceStats>(pin_dir, "SERVICE_STATS")?.iter().filter_map(Result::ok) {
        let sum = |field: fn(&ServiceStats) -> u64| cpus.iter().map(field).sum::<u64>();
        let value = format!(
            "opened={} closed={} sent={} received={} retransmits={}",
            sum(|s| s.opened),
            sum(|s| s.closed),
            sum(|s| s.bytes_sent),
            sum(|s| s.bytes_received),
            sum(|s| s.retransmits)
        );
        rows.push(row("SERVICE_STATS", name_of(&names, id), value));
    }
    let counters = maps::per_cpu_array::<u64>(pin_dir, "COUNTERS")?;
    for reason in Reason::ALL {
        let count: u64 = counters.get(&reason.index(), 0).map(|cpus| cpus.iter().sum()).unwrap_or_default();
        if count > 0 {
            rows.push(row("COUNTERS", reason.label().into(), count.to_string()));
        }
    }
    Ok(Dump { rows })
}

fn control(pin_dir: &Path, rows: &mut Vec<DumpRow>) -> Result<(), KernelError> {
    if let Ok(control) = maps::array::<Control>(pin_dir, "CONTROL")?.get(&0, 0) {
        let value = format!(
            "abi={} flags={:#x} beat_max_age_ms={} flow_limit={} agent_cgroup={}",
            control.abi,
            control.flags,
            control.beat_max_age_ns / 1_000_000,
            control.flow_limit,
            control.agent_cgroup
        );
        rows.push(row("CONTROL", "0".into(), value));
    }
    for name in ["BEAT", "FLOW_COUNT"] {
        if let Ok(value) = maps::array::<u64>(pin_dir, name)?.get(&0, 0) {
            rows.push(row(name, "0".into(), value.to_string()));
        }
    }
    Ok(())
}

fn row(map: &'static str, key: String, value: String) -> DumpRow {
    DumpRow { map, key, value }
}

fn text(addr: Addr) -> String {
    SocketAddr::from(addr).to_string()
}

fn prefix(data: PrefixData, bits: u32) -> String {
    match IpAddr::from(data).to_canonical() {
        IpAddr::V4(ip) if bits >= 96 => format!("{ip}/{}", bits - 96),
        _ => format!("{}/{bits}", IpAddr::from(data)),
    }
}

fn target(names: &maps::Table<u32, Name>, target: &Target) -> String {
    let verdict = match Verdict::from_byte(target.verdict) {
        Verdict::Pass => "pass",
        Verdict::Agent => "agent",
        Verdict::Endpoint => "endpoint",
        Verdict::Deny => "deny",
    };
    let failure = if target.failure == mesh_common::maps::FailurePolicy::Closed as u8 { "closed" } else { "open" };
    let service = if target.service == 0 { String::new() } else { format!(" {}", name_of(names, target.service)) };
    let set = if target.set == 0 { String::new() } else { format!(" set={} slots={}", target.set, target.slots) };
    let sk_msg = if target.flags & mesh_common::maps::TARGET_SK_MSG == 0 { "" } else { " sk_msg" };
    format!("{verdict} fail-{failure}{sk_msg}{set}{service}")
}

fn flow_text(names: &maps::Table<u32, Name>, flow: &Flow) -> String {
    let path = match (flow.orig.flags & ORIG_SK_MSG != 0, flow.app.stopped, flow.agent.stopped) {
        (false, ..) => "tcp",
        (true, 0, 0) => "redirected",
        (true, 0, _) => "redirected to agent only",
        (true, _, 0) => "redirected to app only",
        (true, ..) => "back on tcp",
    };
    format!(
        "orig={} {} {} {path} redirected_bytes={}",
        text(flow.orig.dst),
        name_of(names, flow.orig.workload),
        name_of(names, flow.orig.service),
        flow.redirected_bytes
    )
}
