//! Undermesh's node agent. The modules stand in the order a request passes them (ARCHITECTURE.md, "Life of a request").

pub mod app;
pub mod cli;

pub mod worker;

pub mod proxy;

// Data path.
pub mod kernel;
pub mod listen;

pub mod destination;
pub mod detect;

pub mod body;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod reply;

pub mod policy;
pub mod route;

pub mod balance;
pub mod connect;
pub mod forward;
pub mod telemetry;

// Control path.
pub mod cni;
pub mod config;
pub mod explain;
pub mod fleet;
pub mod install;
pub mod status;

// Both.
pub mod addr;
pub mod admin;
pub mod connections;
pub mod costs;
pub mod drain;
pub mod error;
pub mod identity;
pub mod net;
pub mod settings;
pub mod snapshot;
pub mod time;
