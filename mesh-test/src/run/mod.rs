//! The main job, `cargo xtask run`: one command shows what the mesh does to a real gRPC client.
//!
//! [`RunArgs`] decides between the story (ping-pong, scenario A) and a stage for people's own YAML (`--app`); both
//! speak to a [`Show`], which is a terminal view, plain lines or JSON.

mod expect;
mod show;
mod signals;
mod stage;
mod story;

pub use show::Format;

use crate::lab::Lab;
use crate::manifest::Manifest;
use anyhow::Result;
use show::Show;
use signals::Signals;
use std::path::PathBuf;

/// The app of the story, as users would bring it.
const PINGPONG: &str = include_str!("../../../deploy/examples/pingpong.yaml");

/// What to bring up and how to show it.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Kubernetes YAML to bring up instead of ping-pong: a file or a folder. Repeatable
    #[arg(long = "app", value_name = "FILE|DIR")]
    pub apps: Vec<PathBuf>,
    /// Nodes, an agent each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub nodes: u8,
    /// Replicas of ws002-pingpong the story begins with
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub replicas: u8,
    /// Tell the story once, check it, end: status 1 if anything was not as promised
    #[arg(long)]
    pub once: bool,
    /// Leave everything up after the story until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Without agents: what happens on a cluster that has no mesh
    #[arg(long)]
    pub no_mesh: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Runs to the end of the story, or until a signal, and leaves nothing behind.
pub fn run(args: RunArgs) -> Result<()> {
    let signals = Signals::watch()?;
    let mut show = Show::new(args.output);
    let mut builder = Lab::builder().nodes(args.nodes);
    if args.no_mesh {
        builder = builder.without_agents();
    }
    let lab = builder.start()?;
    show.lab(&lab);
    let result = if args.apps.is_empty() {
        let mut manifest = Manifest::default();
        manifest.add(PINGPONG, "deploy/examples/pingpong.yaml");
        lab.apply(manifest).and_then(|()| story::tell(&lab, &args, &mut show, &signals))
    } else {
        stage::set(&lab, &args, &mut show, &signals)
    };
    let result = result.and_then(|()| {
        if args.keep && !signals.asked() {
            show.waiting(&lab);
            signals.wait();
        }
        Ok(())
    });
    let interrupted = signals.asked();
    let cleaned = lab.finish();
    show.end(result.is_ok() && cleaned.is_ok());
    // After Ctrl-C a half-told story is no failure.
    if interrupted { cleaned } else { result.and(cleaned) }
}
