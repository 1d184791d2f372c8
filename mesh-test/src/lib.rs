//! The lab: nodes and pods as network namespaces, apps that speak real protocols, and what tests need around them.
//!
//! `net` and `cgroup` make the parts, `manifest` reads Kubernetes YAML, `lab` builds nodes and pods from both,
//! `apps` is what runs in the pods, `run` is the story that `cargo xtask run` tells, `tui` its terminal view; `scenario`
//! checks what users do step by step; `bench` compares the agent
//! with its peers.

pub mod apps;
pub mod bench;
pub mod cgroup;
pub mod interop;
pub mod lab;
pub mod manifest;
pub mod net;
pub mod prometheus;
pub mod run;
pub mod scenario;
pub mod tui;
