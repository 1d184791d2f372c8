//! `cargo xtask scenario`: what people do with a mesh in their first week, as steps that check themselves.
//!
//! A `Scenario` is an app in a lab; its `Step`s apply YAML as people have it, send load and compare what came with
//! what the YAML promises. Steps leave nothing behind for the next one.

mod a;
mod access_log;
mod b;
mod c;
mod check;
mod d;
mod e;
mod f;
mod fortio;
mod metrics;
mod show;
mod stage;
mod zones;

pub use show::Format;

use crate::lab::Lab;
use anyhow::{Result, bail};
use check::Checks;
use show::Show;
use stage::Stage;
use std::time::{Duration, Instant};

/// Which scenarios to pass and how to show them.
#[derive(Clone, Debug, clap::Args)]
pub struct ScenarioArgs {
    /// A scenario (B), a step of one (B3), or `all`
    #[arg(required = true, value_parser = known)]
    which: Vec<String>,
    /// Pass each once and end; scenarios do so anyway (as in `cargo xtask run --once`)
    #[arg(long, conflicts_with = "keep")]
    once: bool,
    /// Leave the last lab up, with what its last step applied, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// An app in a lab.
struct Scenario {
    id: &'static str,
    title: &'static str,
    nodes: u8,
    set_up: fn(&Stage) -> Result<()>,
    steps: &'static [Step],
}

/// A thing people try.
struct Step {
    id: &'static str,
    title: &'static str,
    /// What there is to learn.
    lesson: &'static str,
    /// Why `all` and its scenario's name leave it out; it runs when it is named itself.
    waits_for: Option<&'static str>,
    act: fn(&Stage, &mut Checks) -> Result<()>,
}

const SCENARIOS: &[&Scenario] =
    &[&a::PING_PONG, &b::BOOKINFO, &c::SOCK_SHOP, &d::RESILIENCE, &zones::ZONES, &e::TRACES, &f::EGRESS];
const ALL: &str = "all";

/// Passes the chosen steps, leaves nothing behind, fails if anything was not as expected.
pub fn run(args: &ScenarioArgs) -> Result<()> {
    let show = Show::new(args.output);
    let began = Instant::now();
    let (mut all, mut failed) = (0, 0);
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| scenario.is_chosen(&args.which)).collect();
    for (number, scenario) in chosen.iter().enumerate() {
        let keep = args.keep && number + 1 == chosen.len();
        let (checks, wrong) = pass(scenario, args, &show, keep)?;
        all += checks;
        failed += wrong;
    }
    show.end(all, failed, began.elapsed());
    if failed > 0 {
        bail!("{failed} of {all} expectations were not met");
    }
    if all == 0 {
        bail!("nothing was checked: every chosen step is left out");
    }
    Ok(())
}

/// How many expectations there were and how many were not met.
fn pass(scenario: &Scenario, args: &ScenarioArgs, show: &Show, keep: bool) -> Result<(usize, usize)> {
    show.scenario(scenario);
    for step in scenario.steps {
        if let (Some(reason), false) = (step.waits_for, step.is_named(&args.which)) {
            show.left_out(step, reason);
        }
    }
    let steps: Vec<_> = scenario.steps.iter().filter(|step| step.is_chosen(scenario, &args.which)).collect();
    if steps.is_empty() {
        return Ok((0, 0));
    }
    let stage = Stage::new(Lab::builder().nodes(scenario.nodes).start()?);
    (scenario.set_up)(&stage)?;
    stage.keep();
    let (mut all, mut failed) = (0, 0);
    for step in steps {
        stage.reset()?;
        show.step(step);
        let mut checks = Checks::default();
        if let Err(error) = (step.act)(&stage, &mut checks) {
            checks.holds(false, "the step comes to its end", "it does", format!("{error:#}"));
        }
        for check in &checks.0 {
            show.check(step, check);
        }
        all += checks.0.len();
        failed += checks.0.iter().filter(|check| !check.ok).count();
    }
    if keep {
        show.note(&format!("up until Ctrl-C: {}", stage.lab.layout().root().display()));
        for pod in stage.lab.all_pods() {
            show.note(&format!("{}/{}: {}", pod.namespace(), pod.name(), pod.netns().hint()));
        }
        let signals = crate::run::Signals::watch()?;
        while signals.sleep(Duration::from_secs(1)) {}
    }
    stage.lab.finish()?;
    Ok((all, failed))
}

impl Scenario {
    fn is_chosen(&self, which: &[String]) -> bool {
        which.iter().any(|word| word == ALL || self.is_word(word) || self.steps.iter().any(|step| step.is_word(word)))
    }

    fn is_word(&self, word: &str) -> bool {
        self.id.eq_ignore_ascii_case(word)
    }
}

impl Step {
    /// By its own name, or by that of its group: `B3` is `B3a` and `B3b` too.
    fn is_word(&self, word: &str) -> bool {
        word.len() > 1 && self.id.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    }

    fn is_named(&self, which: &[String]) -> bool {
        which.iter().any(|word| self.is_word(word))
    }

    fn is_chosen(&self, scenario: &Scenario, which: &[String]) -> bool {
        let as_part = which.iter().any(|word| word == ALL || scenario.is_word(word)) && self.waits_for.is_none();
        as_part || self.is_named(which)
    }
}

/// A word that chooses something.
fn known(word: &str) -> Result<String, String> {
    let which = [word.to_owned()];
    if SCENARIOS.iter().any(|scenario| scenario.is_chosen(&which)) {
        return Ok(word.to_owned());
    }
    let steps = SCENARIOS.iter().flat_map(|scenario| scenario.steps.iter().map(|step| step.id));
    Err(format!("there are {ALL}, {}", steps.collect::<Vec<_>>().join(", ")))
}
