//! All maps. Capacities are set by the agent when it loads the object (mesh-common `Capacities`), the numbers here
//! only have to be valid. What happens when one is full stands there too.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, RingBuf, SockHash};
use mesh_common::maps::{
    Control, EndpointKey, EndpointSlot, Flow, FlowKey, Name, Orig, Pod, PrefixData, ServiceStats, Target,
};
use mesh_common::{Addr, Reason};

/// The agent's wishes.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
/// When the agent was last alive, monotonic ns.
#[map]
pub static BEAT: Array<u64> = Array::with_max_entries(1, 0);
/// Enrolled network namespaces, by cookie.
#[map]
pub static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Exact destinations.
#[map]
pub static SERVICES: HashMap<Addr, Target> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Destinations by prefix of the v4-mapped address.
#[map]
pub static PREFIXES: LpmTrie<PrefixData, Target> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Alias tables of the sets of endpoints.
#[map]
pub static ENDPOINTS: HashMap<EndpointKey, EndpointSlot> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// What the app asked for, kept with its socket.
#[btf_map]
pub static ORIG: SkStorage<Orig> = SkStorage::new();
/// Captured connections, by the app's end.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Entries of FLOWS.
#[map]
pub static FLOW_COUNT: Array<u64> = Array::with_max_entries(1, 0);
/// Sockets that may be redirected to, by their own end.
#[map]
pub static SOCKS: SockHash<FlowKey> = SockHash::with_max_entries(1024, 0);
/// What happened, by `Reason`.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
/// Connections placed by the kernel, by service id.
#[map]
pub static SERVICE_STATS: PerCpuHashMap<u32, ServiceStats> = PerCpuHashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Opens, closes and refusals, while somebody listens.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);
/// Names of ids. Only the agent reads and writes it; it is here to be pinned with the rest.
#[map]
pub static NAMES: HashMap<u32, Name> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
