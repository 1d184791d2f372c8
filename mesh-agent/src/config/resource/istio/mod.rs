//! Istio's networking objects (`networking.istio.io`; istio/api `networking/v1alpha3/*.proto`). The versions `v1`,
//! `v1beta1` and `v1alpha3` are one schema. Each file has a kind's structs and the table of its fields.

pub mod destination_rule;
pub mod gateway;
pub mod service_entry;
pub mod sidecar;
pub mod telemetry;
pub mod virtual_service;
pub mod wire;
