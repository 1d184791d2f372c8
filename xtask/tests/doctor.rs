//! What `cargo xtask doctor` says, here and where nothing is installed.

use serde_json::Value;
use std::process::{Command, Output};

fn doctor(path: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.arg("doctor").args(args).output().expect("xtask")
}

fn findings(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).expect("a list of findings")
}

#[test]
fn whatever_is_missing_comes_with_a_fix() {
    let output = doctor(None, &["-o", "json"]);
    let all = findings(&output);
    assert!(all.iter().any(|finding| finding["what"] == "kernel"), "{all:?}");
    for finding in &all {
        assert_eq!(finding["ok"] == false, finding["fix"].is_string(), "{finding}");
    }
    let missing = all.iter().any(|finding| finding["need"] == "run" && finding["ok"] == false);
    assert_eq!(output.status.success(), !missing, "the exit code says whether the main job can run");
}

#[test]
fn a_machine_without_rust_is_told_so() {
    // Cargo's folder for files of tests: no program is in it.
    let path = Some(env!("CARGO_TARGET_TMPDIR"));
    let output = doctor(path, &["-o", "json"]);
    assert!(!output.status.success());
    let cargo = findings(&output).into_iter().find(|finding| finding["what"] == "cargo").expect("a line on cargo");
    assert_eq!((&cargo["ok"], &cargo["need"]), (&Value::Bool(false), &Value::from("run")));
    let text = doctor(path, &[]);
    let (shown, said) = (String::from_utf8_lossy(&text.stdout), String::from_utf8_lossy(&text.stderr));
    assert!(shown.contains("MISS cargo") && shown.contains("fix: install Rust (stable) with rustup"), "{shown}");
    assert!(said.contains("see the fixes above"), "{said}");
}
