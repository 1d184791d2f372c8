//! Public sample apps come up by `mesh-lab run --app` and answer through the mesh.

use std::path::{Path, PathBuf};
use std::process::Command;

fn samples() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    let dir = std::env::var_os("UNDERMESH_SAMPLES").map_or(beside, PathBuf::from);
    assert!(dir.is_dir(), "no samples at {}: name their folder with UNDERMESH_SAMPLES", dir.display());
    dir
}

fn comes_up(file: &str, answers: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_mesh-lab"))
        .args(["run", "--once", "-o", "json", "--app"])
        .arg(samples().join(file))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{file}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
    let verdicts: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["event"] == "verdict")
        .collect();
    assert_eq!(verdicts.len(), answers, "{file}: {verdicts:#?}");
    assert!(verdicts.iter().all(|verdict| verdict["ok"] == true), "{file}: {verdicts:#?}");
}

#[test]
fn bookinfo() {
    comes_up("bookinfo/platform/kube/bookinfo.yaml", 4);
}

#[test]
fn helloworld() {
    comes_up("helloworld/helloworld.yaml", 1);
}

#[test]
fn httpbin() {
    comes_up("httpbin/httpbin.yaml", 1);
}

#[test]
fn grpc_echo() {
    comes_up("grpc-echo/grpc-echo.yaml", 3);
}

#[test]
fn tcp_echo() {
    comes_up("tcp-echo/tcp-echo-services.yaml", 2);
}
