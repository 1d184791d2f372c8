//! The lab: nodes and pods as network namespaces, and the apps that run in them.

pub mod apps;
pub mod tui;
