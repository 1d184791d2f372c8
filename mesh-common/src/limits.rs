//! Capacities of the maps. Each map says what happens when it is full; the attach tests show it with [`Capacities::TINY`].

/// Number of entries of each map. Maps allocate entries when they are used, except where said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacities {
    /// Pods of one node. Full: the pod is not enrolled.
    pub pods: u32,
    /// Virtual addresses and ports. Full: the address is left untouched.
    pub services: u32,
    /// Prefixes. Full: the prefix is left untouched.
    pub prefixes: u32,
    /// Endpoints of all services placed by the kernel. Full: the service follows its failure policy.
    pub endpoints: u32,
    /// Captured connections at one time. Reached: new ones follow their failure policy.
    pub flows: u32,
    /// Sockets open to redirection, two per flow. Full: the flow stays on TCP.
    pub socks: u32,
    /// Services with kernel statistics, per CPU. Full: no statistics for the rest.
    pub stats: u32,
    /// Names of ids, for `mesh-agent kernel`. Full: the id is shown without its name.
    pub names: u32,
    /// Bytes of the event ring, a power of two and whole pages (allocated at load). Full: events are lost and counted.
    pub events: u32,
}

impl Capacities {
    pub const DEFAULT: Self = Self {
        pods: 1024,
        services: 65_536,
        prefixes: 16_384,
        endpoints: 262_144,
        flows: 65_536,
        socks: 131_072,
        stats: 16_384,
        names: 65_536,
        events: 262_144,
    };

    /// For tests of full maps.
    pub const TINY: Self =
        Self { pods: 2, services: 4, prefixes: 4, endpoints: 4, flows: 4, socks: 2, stats: 1, names: 4, events: 4096 };

    /// FLOWS' own size: the limit is checked at `connect()`, the entry is made when the handshake ends, so the map holds
    /// more than the limit. Example: 65,536 → 65,536 + 8,192 + 128 = 73,856.
    pub const fn flow_entries(&self) -> u32 {
        self.flows.saturating_add(self.flows / 8).saturating_add(128)
    }
}
