//! Typed handles on pinned maps: one place that knows their names.

use super::KernelError;
use aya::Pod;
use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, lpm_trie::LpmTrie,
};
use std::path::{Path, PathBuf};

pub(super) type Table<K, V> = HashMap<MapData, K, V>;

/// Maps of the object in the order of `mesh-ebpf/src/maps.rs`.
pub(super) const NAMES: [&str; 14] = [
    "CONTROL",
    "BEAT",
    "PODS",
    "SERVICES",
    "PREFIXES",
    "ENDPOINTS",
    "ORIG",
    "FLOWS",
    "FLOW_COUNT",
    "SOCKS",
    "COUNTERS",
    "SERVICE_STATS",
    "EVENTS",
    "NAMES",
];

pub(super) fn folder(pin_dir: &Path) -> PathBuf {
    pin_dir.join("maps")
}

pub(super) fn open(pin_dir: &Path, name: &'static str) -> Result<Map, KernelError> {
    MapData::from_pin(folder(pin_dir).join(name))
        .and_then(Map::from_map_data)
        .map_err(|source| KernelError::Map { name, source })
}

pub(super) fn hash<K: Pod, V: Pod>(pin_dir: &Path, name: &'static str) -> Result<Table<K, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn array<V: Pod>(pin_dir: &Path, name: &'static str) -> Result<Array<MapData, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn per_cpu_array<V: Pod>(
    pin_dir: &Path,
    name: &'static str,
) -> Result<PerCpuArray<MapData, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn per_cpu_hash<K: Pod, V: Pod>(
    pin_dir: &Path,
    name: &'static str,
) -> Result<PerCpuHashMap<MapData, K, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn trie<K: Pod, V: Pod>(pin_dir: &Path, name: &'static str) -> Result<LpmTrie<MapData, K, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn sk_storage<V: Pod>(pin_dir: &Path, name: &'static str) -> Result<SkStorage<MapData, V>, KernelError> {
    typed(pin_dir, name)
}

pub(super) fn ring(pin_dir: &Path, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    typed(pin_dir, name)
}

fn typed<M: TryFrom<Map, Error = MapError>>(pin_dir: &Path, name: &'static str) -> Result<M, KernelError> {
    M::try_from(open(pin_dir, name)?).map_err(|source| KernelError::Map { name, source })
}

/// The map has no room (`E2BIG` from hashes, `ENOSPC` from the trie, `ENOMEM` where memory is bounded).
pub(super) fn is_full(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(e) if matches!(e.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)))
}
