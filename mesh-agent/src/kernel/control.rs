//! `CONTROL[0]`: what the programs are told about the agent, and the run-time switches.

use super::{Config, KernelError, maps};
use aya::maps::{Array, MapData};
use mesh_common::maps::{CONTROL_EVENTS, CONTROL_LOG, CONTROL_SK_MSG};

pub(super) struct Control {
    map: Array<MapData, mesh_common::maps::Control>,
    value: mesh_common::maps::Control,
}

impl Control {
    pub(super) fn open(
        config: &Config,
        object: [u8; 32],
        agent_cgroup: u64,
        sk_msg: bool,
    ) -> Result<Self, KernelError> {
        let flags = [(sk_msg, CONTROL_SK_MSG), (config.events, CONTROL_EVENTS), (config.debug, CONTROL_LOG)];
        let value = mesh_common::maps::Control {
            abi: mesh_common::ABI_VERSION,
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum(),
            beat_max_age_ns: u64::try_from(config.beat_max_age.as_nanos()).unwrap_or(u64::MAX),
            flow_limit: u64::from(config.capacities.flows),
            agent_cgroup,
            object,
        };
        let mut control = Self { map: maps::array(&config.pin_dir, "CONTROL")?, value };
        control.write()?;
        Ok(control)
    }

    pub(super) fn set_sk_msg(&mut self, on: bool) -> Result<(), KernelError> {
        if on {
            self.value.flags |= CONTROL_SK_MSG;
        } else {
            self.value.flags &= !CONTROL_SK_MSG;
        }
        self.write()
    }

    pub(super) fn sk_msg(&self) -> bool {
        self.value.flags & CONTROL_SK_MSG != 0
    }

    fn write(&mut self) -> Result<(), KernelError> {
        self.map.set(0, self.value, 0).map_err(|source| KernelError::Map { name: "CONTROL", source })
    }
}
