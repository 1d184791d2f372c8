//! Code generated from `proto/`, and the descriptors that gRPC reflection serves.

/// `pingpong.v1`: the ping-pong app's service.
pub mod pingpong {
    #![allow(unreachable_pub, rust_2018_idioms, unused_qualifications, clippy::all)]
    tonic::include_proto!("pingpong.v1");
}

/// `proto`: Istio's test echo service.
pub mod echo {
    #![allow(unreachable_pub, rust_2018_idioms, unused_qualifications, clippy::all)]
    tonic::include_proto!("proto");
}

/// The encoded `FileDescriptorSet` of every file in `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
