//! Counters and events.

use crate::facts::control;
use crate::maps::{COUNTERS, EVENTS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::Reason;
use mesh_common::event::Event;
use mesh_common::maps::CONTROL_EVENTS;

#[inline(always)]
pub fn count(reason: Reason) {
    add(reason, 1);
}

#[inline(always)]
pub fn add(reason: Reason, amount: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.index()) {
        // SAFETY: the slot is this CPU's; a program is not interrupted by itself on one CPU.
        unsafe { *counter += amount };
    }
}

/// Writes an event if the agent asked for events; `fill` runs only then.
#[inline(always)]
pub fn event(fill: impl FnOnce() -> Event) {
    if !control().is_some_and(|c| c.flags & CONTROL_EVENTS != 0) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return count(Reason::EventLost) };
    // SAFETY: the helper has no preconditions.
    entry.write(Event { at_ns: unsafe { bpf_ktime_get_ns() }, ..fill() });
    entry.submit(0);
}
