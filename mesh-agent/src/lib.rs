//! Undermesh's node agent. The modules stand in the order a request passes them (ARCHITECTURE.md, "Life of a request").

pub mod addr;
pub mod kernel;
pub mod snapshot;

pub mod config;
