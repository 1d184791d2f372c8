//! What the interop tests share: where `cargo xtask peers` put the programs, and enrolled namespaces.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use mesh_test::lab::Lab;
use std::path::{Path, PathBuf};

pub const LANGUAGES: &[&str] = &["go", "python", "java", "node", "rust"];

/// The app of one language; tonic's is built beside the other bins.
pub fn language(name: &str) -> PathBuf {
    if name == "rust" { PathBuf::from(env!("CARGO_BIN_EXE_mesh-interop")) } else { peer(&format!("interop-{name}")) }
}

/// A program of `cargo xtask peers`. A test that cannot run fails.
pub fn peer(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin").join(name);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask peers`", path.display()))
}

/// A namespace in the mesh.
pub fn namespace(lab: &Lab, name: &str) {
    lab.apply_yaml(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")).unwrap();
    lab.label_namespace(name, "istio-injection", Some("enabled")).unwrap();
}

/// The cluster address of a Service.
pub fn vip(lab: &Lab, service: &str) -> String {
    let services = lab.services();
    let found = services.iter().find(|s| s.service.name == service).unwrap_or_else(|| panic!("no Service {service}"));
    found.ips.map_or_else(|| panic!("{service} has no cluster address"), |ips| ips.v4.to_string())
}
