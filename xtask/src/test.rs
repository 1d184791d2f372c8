//! `cargo xtask test`: every test, layer by layer, on a bare machine too.

use crate::sh;
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these layers
    #[arg(long = "layer", value_enum)]
    layers: Vec<Layer>,
    /// Stop at the first layer that fails
    #[arg(long)]
    fail_fast: bool,
}

/// In the order of their cost.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Debug)]
enum Layer {
    /// fmt, clippy, tidy, docs
    Static,
    /// no root: pure, property, scripted peers
    Unit,
}

const LAYERS: &[Layer] = &[Layer::Static, Layer::Unit];

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let mut failed = Vec::new();
    let (mut passed_tests, mut failed_tests) = (0, 0);
    for layer in LAYERS.iter().filter(|l| args.layers.is_empty() || args.layers.contains(l)) {
        sh::say(&format!("{layer:?}"));
        for (name, mut command) in steps(*layer) {
            match sh::step(name, &mut command) {
                Ok(output) => passed_tests += count(&output, " passed"),
                Err(error) => {
                    failed_tests += 1;
                    failed.push(format!("{error:#}"));
                    if args.fail_fast {
                        bail!("{error:#}");
                    }
                }
            }
        }
    }
    for error in &failed {
        sh::error(error);
    }
    sh::say(&format!("took {}", sh::human(started.elapsed())));
    sh::say(&format!("{passed_tests} passed, {failed_tests} failed"));
    if !failed.is_empty() {
        bail!("{} step(s) failed", failed.len());
    }
    Ok(())
}

fn steps(layer: Layer) -> Vec<(&'static str, Command)> {
    match layer {
        Layer::Static => vec![
            ("format", cargo(&["fmt", "--all", "--check"])),
            ("tidy", cargo(&["run", "--quiet", "--package", "xtask", "--", "tidy"])),
            ("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
        ],
        Layer::Unit => vec![("unit", cargo(&["test", "--quiet"]))],
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = sh::cargo();
    command.args(args);
    command
}

/// Adds up libtest's `test result: ok. 12 passed; 0 failed; …` lines.
fn count(output: &sh::Output, word: &str) -> usize {
    let results = output.lines.iter().filter(|l| l.starts_with("test result:"));
    results.filter_map(|l| l.split(word).next()?.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
