//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md that a text search can hold.

mod fences;
mod source;

use crate::sh;
use anyhow::{Context, Result, bail};
use source::Source;
use std::fs;
use std::process::Command;

/// Lines after which a file is named, and after which the task fails (DESIGN §3, invariant 10).
const WARN_LINES: usize = 400;
const FAIL_LINES: usize = 800;

#[derive(clap::Args)]
pub(crate) struct Args {}

/// Fails with every breach it found, one line each: file, line, rule, what to do.
pub(crate) fn run(_: &Args) -> Result<()> {
    let sources = tracked("*.rs")?.iter().map(|path| Source::read(path)).collect::<Result<Vec<_>>>()?;
    let mut breaches = Vec::new();
    for source in &sources {
        sizes(source, &mut breaches);
        fences::check(source, &mut breaches);
    }
    documents(&mut breaches)?;
    crate_graph(&mut breaches)?;
    for breach in &breaches {
        sh::say(breach);
    }
    if !breaches.is_empty() {
        bail!("tidy: {} breach(es)", breaches.len());
    }
    sh::say(&format!("tidy: {} files hold the fences", sources.len()));
    Ok(())
}

fn tracked(pattern: &str) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(sh::root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]);
    let output = git.output().context("tidy reads the list of files from git")?;
    let listed = String::from_utf8(output.stdout)?;
    Ok(listed.lines().filter(|path| sh::root().join(path).exists()).map(str::to_owned).collect())
}

fn sizes(source: &Source, breaches: &mut Vec<String>) {
    let lines = source.lines.len();
    let limit = if source.path == "mesh-agent/src/proxy.rs" { 200 } else { FAIL_LINES };
    if lines > limit {
        breaches.push(format!("{}: {lines} lines, at most {limit}: split it along its parts", source.path));
    } else if lines > WARN_LINES {
        sh::say(&format!("note: {}: {lines} lines (over {WARN_LINES})", source.path));
    }
}

fn documents(breaches: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(sh::root().join("ARCHITECTURE.md"))?;
    if text.lines().count() > 200 {
        breaches.push(format!("ARCHITECTURE.md: {} lines, at most 200", text.lines().count()));
    }
    Ok(())
}

/// `mesh-ebpf → mesh-common ← mesh-agent ← mesh-test`, `mesh-cni ← mesh-agent`, nothing depends on xtask, two features at most per crate.
fn crate_graph(breaches: &mut Vec<String>) -> Result<()> {
    let output = sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let allowed: [(&str, &[&str]); 5] = [
        ("mesh-common", &[]),
        ("mesh-cni", &[]),
        ("mesh-agent", &["mesh-common", "mesh-cni"]),
        ("mesh-test", &["mesh-common", "mesh-agent"]),
        ("xtask", &[]),
    ];
    let ours = |name: &str| allowed.iter().any(|(known, _)| *known == name);
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may)) = allowed.iter().find(|(known, _)| *known == name) else {
            breaches.push(format!("{name}: a crate that ARCHITECTURE.md does not know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if ours(on) && !may.contains(&on) {
                breaches.push(format!("{name} depends on {on}: against the direction of ARCHITECTURE.md"));
            }
        }
        if package["features"].as_object().is_some_and(|f| f.keys().filter(|k| *k != "default").count() > 2) {
            breaches.push(format!("{name}: more than two features"));
        }
    }
    Ok(())
}
