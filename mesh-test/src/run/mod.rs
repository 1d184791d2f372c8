//! The main job, `cargo xtask run`: one command shows what the mesh does to a real gRPC client.
//!
//! [`RunArgs`] decides between the story (ping-pong, scenario A) and a stage for people's own YAML (`--app`); both
//! fill a [`crate::tui::View`], which is shown on a terminal, as lines or as JSON.

mod observe;
mod show;
mod signals;
mod stage;
mod story;

pub use show::Format;
pub(crate) use signals::Signals;

use crate::lab::{Lab, LabBuilder};
use crate::manifest::Manifest;
use anyhow::{Result, bail};
use show::Show;
use std::path::PathBuf;
use std::time::Duration;

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
    /// Leave everything up afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Without agents: what happens on a cluster that has no mesh
    #[arg(long)]
    pub no_mesh: bool,
    /// `auto`: a view on a terminal, lines elsewhere
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// What came of a promise: kept or not, and its text.
pub(crate) type Verdicts = Vec<(bool, String)>;

/// Runs to the end of the story, or until a signal, and leaves nothing behind.
pub fn run(args: &RunArgs) -> Result<()> {
    let signals = Signals::watch()?;
    let mut show = Show::new(args.output, !args.once);
    let lab = builder(args).start()?;
    let mut verdicts = Verdicts::new();
    let told = perform(&lab, args, &mut show, &signals, &mut verdicts);
    // After Ctrl-C a half-told story is no failure.
    let told = if signals.asked() { Ok(()) } else { told };
    let cleaned = lab.finish();
    show.end(&verdicts);
    told.and(cleaned)?;
    let broken = verdicts.iter().filter(|(ok, _)| !ok).count();
    if broken > 0 {
        bail!("{broken} of {} expectations failed", verdicts.len());
    }
    Ok(())
}

fn builder(args: &RunArgs) -> LabBuilder {
    let builder = Lab::builder().nodes(args.nodes);
    if args.no_mesh { builder.without_agents() } else { builder }
}

fn perform(lab: &Lab, args: &RunArgs, show: &mut Show, signals: &Signals, verdicts: &mut Verdicts) -> Result<()> {
    show.lab(lab);
    if args.apps.is_empty() {
        let mut manifest = Manifest::default();
        manifest.add(PINGPONG, "deploy/examples/pingpong.yaml");
        lab.apply(manifest)?;
        lab.scale(story::NAMESPACE, story::SERVER, args.replicas.into())?;
        show.up(lab);
        if args.no_mesh {
            show.say("up, without a mesh");
            show.draw(true);
        } else {
            story::tell(lab, args, show, signals, verdicts)?;
        }
    } else {
        stage::set(lab, args, show, signals, verdicts)?;
    }
    while args.keep && !args.once && !show.is_terminal() && signals.sleep(Duration::from_secs(1)) {}
    Ok(())
}
