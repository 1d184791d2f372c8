//! The apps that run in the lab's pods: the ping-pong pair, Bookinfo's and Sock Shop's services, the stand-in
//! for any other sample image, the load generator.
//!
//! They know nothing of the mesh: plain sockets, tonic, hyper. Each runs as its own process (`mesh-app <app>`), writes
//! JSON lines to stdout and leaves on SIGTERM after its calls in flight. All of them name the pod that answered, in the
//! answer and in the header or metadata entry `x-served-by`, so a client can count replicas without help from the mesh.

pub mod api;
pub mod call;
pub mod demo;
pub mod dial;
pub mod echo;
pub mod event;
pub mod faulty;
pub mod fetch;
pub mod grpc;
pub mod listen;
pub mod load;
pub mod pingpong;
pub mod pod;
pub mod port;
pub mod proto;

/// Header and metadata entry that carries the name of the pod that did the work.
pub const SERVED_BY: &str = "x-served-by";
