//! Turns what clients print and agents count into numbers of the view.

use super::show::Show;
use super::signals::Signals;
use crate::apps::load::Line;
use crate::apps::load::report::Report;
use crate::lab::{Lab, Pod, Process, finish_load};
use crate::tui::{Failure, Key, Replica, State, View};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two looks. Load clients report every 100 ms.
const LOOK: Duration = Duration::from_millis(100);
/// Asking the agents costs a process each; once a second is what people can follow.
const ASK: Duration = Duration::from_secs(1);

/// A load client and what it has said in this step.
pub(super) struct Watch {
    process: Process,
    /// Bytes of its output that were read.
    read: usize,
    pub(super) step: Step,
    asked: Option<Instant>,
}

/// Sums since the step began.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) failed: u64,
    errors: BTreeMap<String, Failure>,
    /// When each replica first answered, since the client's start.
    pub(super) first_seen: BTreeMap<String, Instant>,
    rates: BTreeMap<String, f64>,
    p50_us: u64,
    p99_us: u64,
    pub(super) connections: u64,
}

impl Watch {
    /// Starts a load client in `pod`; `args` as for `mesh-app load`.
    pub(super) fn start(pod: &Pod, target: &str, args: &[&str], view: &mut View) -> Result<Self> {
        let all = [&["--target", target, "--interval-ms", "100"], args].concat();
        view.client.pod = pod.name().to_owned();
        target.clone_into(&mut view.client.target);
        Ok(Self { process: pod.start_load(&all)?, read: 0, step: Step::default(), asked: None })
    }

    /// Forgets what was seen; the client goes on.
    pub(super) fn new_step(&mut self, view: &mut View) {
        self.take_lines();
        self.step = Step { connections: self.step.connections, ..Step::default() };
        view.replicas.retain(|replica| replica.state != State::Gone && replica.state != State::Killed);
    }

    /// Shows the client's work for a while. False when the run is to end; early when `n` is pressed.
    pub(super) fn show_for(&mut self, time: Duration, lab: &Lab, show: &mut Show, signals: &Signals) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end && !signals.asked() {
            self.look(lab, show);
            match show.key(LOOK) {
                Some(Key::Quit) => signals.ask(),
                Some(Key::Next) => break,
                _ => {}
            }
        }
        self.look(lab, show);
        !signals.asked()
    }

    /// Shows until the client has ended by itself.
    pub(super) fn show_to_end(&mut self, lab: &Lab, show: &mut Show, signals: &Signals) -> Result<Report> {
        while self.process.ended().is_none() && !signals.asked() {
            self.show_for(LOOK, lab, show, signals);
        }
        self.look(lab, show);
        self.finish()
    }

    /// Reads what is new and draws.
    pub(super) fn look(&mut self, lab: &Lab, show: &mut Show) {
        self.take_lines();
        self.step.fill(&mut show.view);
        states(lab, &mut show.view);
        if self.asked.is_none_or(|asked| asked.elapsed() > ASK) {
            self.asked = Some(Instant::now());
            kernel(lab, &mut show.view);
        }
        show.draw(false);
    }

    /// Ends the client (if it has not ended) and returns its total.
    pub(super) fn finish(&mut self) -> Result<Report> {
        let report = if self.process.ended().is_some() { finished(&self.process) } else { None };
        match report {
            Some(report) => Ok(report),
            None => finish_load(&mut self.process),
        }
    }

    fn take_lines(&mut self) {
        let output = self.process.output();
        let Some(new) = output.get(self.read..) else { return };
        let complete = new.rfind('\n').map_or(0, |at| at + 1);
        self.read += complete;
        for line in new[..complete].lines() {
            if let Ok(Line::Interval { report, .. }) = serde_json::from_str(line) {
                self.step.add(&report);
            }
        }
    }
}

impl Step {
    pub(super) fn ok(&self) -> u64 {
        self.calls.values().sum()
    }

    /// The last failure of each code.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Failure> {
        self.errors.values()
    }

    fn add(&mut self, report: &Report) {
        let seconds = (report.elapsed_ms.max(1)) as f64 / 1000.0;
        self.rates.clear();
        for (pod, count) in &report.replicas {
            *self.calls.entry(pod.clone()).or_default() += count;
            self.first_seen.entry(pod.clone()).or_insert_with(Instant::now);
            self.rates.insert(pod.clone(), *count as f64 / seconds);
        }
        for (code, error) in &report.errors {
            let known = self.errors.entry(code.clone()).or_default();
            known.code.clone_from(code);
            known.count += error.count;
            known.message.clone_from(&error.message);
        }
        self.failed += report.failed;
        (self.p50_us, self.p99_us) = (report.p50_us, report.p99_us);
        self.connections = report.connections_opened;
    }

    fn fill(&self, view: &mut View) {
        for pod in self.calls.keys() {
            if !view.replicas.iter().any(|replica| replica.pod == *pod) {
                view.replicas.push(Replica { pod: pod.clone(), ..Replica::default() });
            }
        }
        for replica in &mut view.replicas {
            replica.calls = self.calls.get(&replica.pod).copied().unwrap_or(0);
            replica.rate = self.rates.get(&replica.pod).copied().unwrap_or(0.0);
        }
        view.client.calls = self.ok() + self.failed;
        view.client.failed = self.failed;
        view.client.rate = self.rates.values().sum();
        view.client.connections = self.connections;
        (view.client.p50_us, view.client.p99_us) = (self.p50_us, self.p99_us);
        view.errors = self.errors.values().cloned().collect();
    }
}

/// Which replicas there are and how they are.
pub(super) fn states(lab: &Lab, view: &mut View) {
    let pods = lab.all_pods();
    for replica in &mut view.replicas {
        let pod = pods.iter().find(|pod| pod.name() == replica.pod);
        replica.state = match pod {
            None if replica.state == State::Killed => State::Killed,
            None => State::Gone,
            Some(pod) if lab.is_ready(pod) => State::Ready,
            Some(_) if replica.state == State::Killed => State::Killed,
            Some(pod) if lab.is_ending(pod) => State::Stopping,
            Some(_) => State::Starting,
        };
        if let Some(pod) = pod {
            replica.node = pod.node();
        }
    }
}

/// The agents' kernel counters, summed over nodes.
pub(super) fn kernel(lab: &Lab, view: &mut View) {
    let mut sum = crate::tui::Kernel::default();
    for agent in lab.agents() {
        let Ok(kernel) = agent.ask(&["kernel"]) else { continue };
        for counter in kernel["counters"].as_array().into_iter().flatten() {
            let count = counter["count"].as_u64().unwrap_or(0);
            match counter["reason"].as_str().unwrap_or_default() {
                "to_agent" => sum.redirected += count,
                "to_endpoint" => sum.placed += count,
                "not_enrolled" | "no_target" | "passed_by_rule" | "beat_stale_open" | "listener_gone_open" => {
                    sum.passed += count;
                }
                "denied_by_rule" | "no_endpoint" | "beat_stale_closed" | "listener_gone_closed" => sum.denied += count,
                "redirected" => sum.sk_msg_messages += count,
                "redirected_bytes" => sum.sk_msg_bytes += count,
                _ => {}
            }
        }
        let tier = [&kernel["tier"], &kernel["status"]["tier"]].into_iter().find_map(|tier| tier.as_str());
        tier.unwrap_or_default().clone_into(&mut sum.tier);
    }
    // An agent that does not answer for a moment does not set counters back.
    if !sum.tier.is_empty() {
        view.kernel = sum;
    }
}

fn finished(process: &Process) -> Option<Report> {
    process.lines::<Line>().into_iter().find_map(|line| match line {
        Line::Total { report, .. } => Some(report),
        Line::Interval { .. } => None,
    })
}
