//! Choice of an endpoint.
//!
//! Place in the path: after the route has named a host, before `connect`. A `Cluster` is the immutable view that one
//! client has of one port's or subset's endpoints under one `TrafficPolicy`; `EndpointState` is what the agent learnt
//! about an endpoint at run time. Both are shared by all workers through the `Registry`; states are kept over snapshot
//! swaps. Invariant: the choice is a pure function of (endpoints, states, cursor, now, rng), takes no lock and only ever
//! returns a member of the cluster.

mod affinity;
mod arrivals;
mod cluster;
mod levels;
mod locality;
mod outlier;
mod policy;
mod registry;
mod state;
mod table;
mod tables;

pub use affinity::{Affinity, RequestFacts, affinity};
pub use cluster::{Ask, Chosen, Cluster, NoEndpoint, Priorities, Spec};
pub use policy::{Policy, default_policy};
pub use registry::{EndpointRow, Registry};
pub use state::{ActiveRequest, Ended, EndpointState};
