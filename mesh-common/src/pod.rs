//! `aya::Pod` for what crosses the user boundary.

use crate::addr::Addr;
use crate::maps::{Control, EndpointKey, EndpointSlot, Flow, FlowKey, Name, Orig, Pod, ServiceStats, Target};
use crate::sticky::Direction;

macro_rules! plain {
    ($($name:ty),*) => {
        $(
            #[allow(unsafe_code)]
            // SAFETY: `repr(C)`, `Copy`, integers and arrays of integers only, no implicit padding (size assertions in
            // maps.rs), every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

plain!(Addr, Pod, Target, EndpointKey, EndpointSlot, Orig, FlowKey, Flow, Direction, ServiceStats, Control, Name);
