//! Scenario A, steps 1 to 3, told with a real gRPC client: what one HTTP/2 connection means without a mesh, what
//! changes when the namespace is labelled, and that scaling and killing under load cost nobody a call.

use super::observe::Watch;
use super::show::Show;
use super::signals::Signals;
use super::{RunArgs, Verdicts};
use crate::apps::load::report::Report;
use crate::lab::{Lab, Pod};
use crate::tui::{Key, Replica, State};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) const NAMESPACE: &str = "pingpong";
pub(super) const SERVER: &str = "ws002-pingpong";
const LABEL: (&str, &str) = ("istio-injection", "enabled");
const TARGET: &str = "ws002-pingpong:9000";
const API: &str = "ws001-api:7001";
const STEPS: u32 = 5;
/// Calls a second of the load that scaling and killing happen under.
const RATE: &str = "300";
/// Scenario A: "new replicas take traffic within a second".
const WITHIN: Duration = Duration::from_secs(1);
/// Calls that may be with one of three replicas at [`RATE`] when it dies: 100 ms of a busy machine.
const MOST_IN_FLIGHT: u64 = 10;

/// Tells the story; what it promises goes to `verdicts`.
pub(super) fn tell(
    lab: &Lab,
    args: &RunArgs,
    show: &mut Show,
    signals: &Signals,
    verdicts: &mut Verdicts,
) -> Result<()> {
    let client = lab.pod("client").namespace(NAMESPACE).label("app", "client").start()?;
    let mut told = Story { lab, show, signals, verdicts, client, once: args.once, redirects: false };
    if told.without()? && told.enrolled(args.replicas.into())? {
        let Some(mut watch) = told.scaled(args.replicas.into())? else { return Ok(()) };
        if told.killed(&mut watch)? && told.counted(&mut watch)? && told.show.is_terminal() {
            told.play(&mut watch)?;
        }
        watch.finish()?;
    }
    Ok(())
}

struct Story<'a> {
    lab: &'a Lab,
    show: &'a mut Show,
    signals: &'a Signals,
    verdicts: &'a mut Verdicts,
    client: Pod,
    once: bool,
    /// Every agent moves bytes from socket to socket.
    redirects: bool,
}

impl Story<'_> {
    fn without(&mut self) -> Result<bool> {
        self.step(
            1,
            "Without a mesh",
            "ws001-api answers HTTP by calling ws002-pingpong with gRPC. gRPC keeps one HTTP/2 connection \
            and kube-proxy balances connections, so one replica gets every call; the others idle.",
        );
        let args = ["--kind", "http", "--path", "/api/pingpong", "--rate", "100", "--count", "100"];
        let report = self.calls(API, &args)?;
        let one = report.ok == 100 && report.replicas.len() == 1;
        self.verdict(one, &format!("without the mesh one replica has all of 100 calls: {}", shares(&report)));
        Ok(self.pause())
    }

    fn enrolled(&mut self, replicas: usize) -> Result<bool> {
        self.step(
            2,
            "Into the mesh",
            "The namespace gets the label istio-injection=enabled. Nothing is restarted: the next connect() of a pod \
            is taken by eBPF and handed to the node's agent, which balances each call of the one connection.",
        );
        self.redirects = self.await_self_test()?;
        self.lab.label_namespace(NAMESPACE, LABEL.0, Some(LABEL.1))?;
        let labelled = Instant::now();
        for agent in self.lab.agents().iter().filter(|agent| agent.node() == self.client.node()) {
            agent.await_enrolled(NAMESPACE, self.client.name(), true)?;
        }
        self.show.view.enrolled = true;
        self.show.say(&format!(
            "kubectl label namespace {NAMESPACE} {}={}: in force after {} ms",
            LABEL.0,
            LABEL.1,
            labelled.elapsed().as_millis()
        ));
        let report = self.calls(TARGET, &["--rate", "100", "--count", "100"])?;
        let share = 100 / replicas as u64;
        // 100 over 3: 34, 33, 33. Each within one of N/k.
        let even = report.ok == 100
            && report.replicas.len() == replicas
            && report.replicas.values().all(|count| count.abs_diff(share) <= 1)
            && report.connections_opened == 1;
        self.verdict(
            even,
            &format!(
                "in the mesh 100 calls over {} connection are even: {}",
                report.connections_opened,
                shares(&report)
            ),
        );
        Ok(self.pause())
    }

    fn scaled(&mut self, replicas: usize) -> Result<Option<Watch>> {
        self.step(3, "Scaling under load", "One client, one connection, hundreds of calls a second. Replicas come: they get calls at once. Replicas go: \
            they are told to finish (GOAWAY) and what they did not begin is sent elsewhere.");
        let mut watch = Watch::start(&self.client, TARGET, &["--rate", RATE], &mut self.show.view)?;
        if !watch.show_for(Duration::from_secs(1), self.lab, self.show, self.signals) {
            return Ok(None);
        }
        let before = self.names();
        self.show.say(&format!("kubectl scale deployment {SERVER} --replicas 5 (from {replicas})"));
        self.lab.scale(NAMESPACE, SERVER, replicas.max(5))?;
        let ready = Instant::now();
        watch.show_for(Duration::from_millis(2500), self.lab, self.show, self.signals);
        let fresh: Vec<_> = self.names().into_iter().filter(|name| !before.contains(name)).collect();
        let slowest = fresh
            .iter()
            .map(|name| watch.step.first_seen.get(name).map(|seen| seen.saturating_duration_since(ready)))
            .max_by_key(|delay| delay.unwrap_or(Duration::MAX))
            .flatten();
        let quick = slowest.is_some_and(|delay| delay <= WITHIN)
            && fresh.iter().all(|name| watch.step.first_seen.contains_key(name));
        let when = slowest.map_or("never".to_owned(), |delay| format!("{} ms", delay.as_millis()));
        self.verdict(
            quick,
            &format!("{} new replicas take calls within a second of being ready ({when})", fresh.len()),
        );
        self.show.say(&format!("kubectl scale deployment {SERVER} --replicas 1"));
        self.lab.scale(NAMESPACE, SERVER, 1)?;
        watch.show_for(Duration::from_millis(1500), self.lab, self.show, self.signals);
        let step = &watch.step;
        let text = format!(
            "scaling to 5 and to 1 under load: {} calls, {} failed, {} connection(s)",
            step.ok(),
            step.failed,
            step.connections
        );
        self.verdict(step.failed == 0 && step.connections == 1 && step.ok() > 300, &text);
        Ok(self.pause().then_some(watch))
    }

    fn killed(&mut self, watch: &mut Watch) -> Result<bool> {
        self.step(4, "A replica is killed", "kill -9, in the middle of the load: no farewell, no readiness probe yet. The agent sees the connection break \
            and sends the calls elsewhere. A call the dead replica may have begun is not repeated: that could do its work twice.");
        self.lab.scale(NAMESPACE, SERVER, 3)?;
        watch.show_for(Duration::from_millis(1500), self.lab, self.show, self.signals);
        watch.new_step(&mut self.show.view);
        watch.show_for(Duration::from_millis(500), self.lab, self.show, self.signals);
        let victim = self.lab.pods_of(NAMESPACE, SERVER).into_iter().next().context("no replica")?;
        self.show.say(&format!("kill -9 {}", victim.name()));
        self.crash(&victim)?;
        watch.show_for(Duration::from_secs(2), self.lab, self.show, self.signals);
        let (ok, failed) = (watch.step.ok(), watch.step.failed);
        // On an idle machine none or one is with the victim when it dies; on a busy one a few are queued there. Each
        // must have been with the victim itself: a call that fails elsewhere, or because the dead replica was chosen
        // again, is a broken promise.
        let only_its_own = watch.step.errors().all(|error| was_with(&victim, &error.message));
        self.verdict(
            failed <= MOST_IN_FLIGHT && only_its_own && ok > 300,
            &format!("a replica killed under load: {ok} calls, {failed} failed (only what it was working on)"),
        );
        let deadline = Instant::now() + Duration::from_secs(8);
        while !self.lab.is_ready(&victim) && Instant::now() < deadline && !self.signals.asked() {
            watch.show_for(Duration::from_millis(200), self.lab, self.show, self.signals);
        }
        self.show.say(&format!("{} was restarted by the kubelet", victim.name()));
        Ok(self.pause_watching(watch))
    }

    fn counted(&mut self, watch: &mut Watch) -> Result<bool> {
        self.step(
            5,
            "What the kernel did",
            "connect() was redirected for enrolled pods only. Bytes between app and agent go from socket to socket \
            (sk_msg), past TCP/IP: no packets, no checksums, no loopback device.",
        );
        watch.new_step(&mut self.show.view);
        watch.show_for(Duration::from_secs(2), self.lab, self.show, self.signals);
        super::observe::kernel(self.lab, &mut self.show.view);
        let kernel = self.show.view.kernel.clone();
        let text = format!(
            "the kernel redirected {} connections, passed {} untouched, moved {} messages ({} KiB) past TCP/IP",
            kernel.redirected,
            kernel.passed,
            kernel.sk_msg_messages,
            kernel.sk_msg_bytes / 1024
        );
        self.verdict(kernel.redirected > 0 && (kernel.sk_msg_messages > 0 || !self.redirects), &text);
        Ok(self.pause_watching(watch))
    }

    /// The keys are the story now.
    fn play(&mut self, watch: &mut Watch) -> Result<()> {
        self.step(0, "Yours", "The load goes on. Scale, kill, take the label off and put it on again (open connections stay where they are), and watch.");
        self.show.view.steps = 0;
        self.show.view.keys = vec![Key::ScaleUp, Key::ScaleDown, Key::Kill, Key::Label, Key::Quit];
        watch.new_step(&mut self.show.view);
        while !self.signals.asked() {
            watch.look(self.lab, self.show);
            let replicas = self.lab.pods_of(NAMESPACE, SERVER);
            match self.show.key(Duration::from_millis(100)) {
                Some(Key::Quit) => self.signals.ask(),
                Some(Key::ScaleUp) if replicas.len() < 20 => self.scale_watching(replicas.len() + 1, watch)?,
                Some(Key::ScaleDown) if replicas.len() > 1 => self.scale_watching(replicas.len() - 1, watch)?,
                Some(Key::Kill) => {
                    if let Some(victim) = replicas.iter().find(|pod| self.lab.is_ready(pod)) {
                        self.show.say(&format!("kill -9 {}", victim.name()));
                        self.crash(victim)?;
                    }
                }
                Some(Key::Label) => {
                    let on = !self.show.view.enrolled;
                    self.lab.label_namespace(NAMESPACE, LABEL.0, on.then_some(LABEL.1))?;
                    self.show.view.enrolled = on;
                    self.show.say(if on {
                        "labelled: the next connections are in the mesh"
                    } else {
                        "label off: the next connections are outside"
                    });
                    for agent in self.lab.agents().iter().filter(|agent| agent.node() == self.client.node()) {
                        agent.await_enrolled(NAMESPACE, self.client.name(), on)?;
                    }
                    watch.finish()?;
                    // A connection stays where it was opened, so the client opens another.
                    *watch = Watch::start(&self.client, TARGET, &["--rate", RATE], &mut self.show.view)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn step(&mut self, number: u32, title: &str, lesson: &str) {
        let view = &mut self.show.view;
        (view.step, view.steps) = (number, STEPS);
        title.clone_into(&mut view.title);
        lesson.clone_into(&mut view.lesson);
        view.keys = vec![Key::Next, Key::Quit];
        view.replicas = self
            .lab
            .pods_of(NAMESPACE, SERVER)
            .iter()
            .map(|pod| Replica { pod: pod.name().to_owned(), ..Replica::default() })
            .collect();
        self.show.draw(true);
    }

    fn calls(&mut self, target: &str, args: &[&str]) -> Result<Report> {
        let mut watch = Watch::start(&self.client, target, args, &mut self.show.view)?;
        watch.show_to_end(self.lab, self.show, self.signals)
    }

    /// An agent tests redirection (sk_msg) in the background and uses it for connections opened after that; the story's
    /// one connection should be one of them. True if every agent redirects.
    fn await_self_test(&mut self) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut on = true;
        for agent in self.lab.agents() {
            loop {
                let sk_msg = &agent.ask(&["status"])?["kernel"]["sk_msg"];
                let running = sk_msg["reason"].as_str().is_some_and(|reason| reason.contains("still running"));
                if !running || Instant::now() > deadline || !self.signals.sleep(Duration::from_millis(100)) {
                    on &= sk_msg["on"] == true;
                    let (word, reason) = (if on { "on" } else { "off" }, sk_msg["reason"].as_str().unwrap_or_default());
                    self.show
                        .say(&format!("{}: redirection between sockets (sk_msg) is {word}: {reason}", agent.node()));
                    break;
                }
                self.show.draw(false);
            }
        }
        Ok(on)
    }

    /// Scales while the view goes on: a pod that ends has seconds of grace.
    fn scale_watching(&mut self, replicas: usize, watch: &mut Watch) -> Result<()> {
        self.show.say(&format!("kubectl scale deployment {SERVER} --replicas {replicas}"));
        let lab = self.lab;
        std::thread::scope(|scope| {
            let scaling = scope.spawn(move || lab.scale(NAMESPACE, SERVER, replicas));
            while !scaling.is_finished() {
                watch.look(lab, self.show);
                std::thread::sleep(Duration::from_millis(50));
            }
            scaling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn crash(&mut self, victim: &Pod) -> Result<()> {
        victim.crash()?;
        for replica in self.show.view.replicas.iter_mut().filter(|replica| replica.pod == victim.name()) {
            replica.state = State::Killed;
        }
        Ok(())
    }

    fn verdict(&mut self, ok: bool, text: &str) {
        if self.signals.asked() {
            // Cut short by Ctrl-C: it says nothing about the mesh.
            return;
        }
        self.show.say(&format!("{} {text}", if ok { "ok:" } else { "NOT AS PROMISED:" }));
        self.show.draw(true);
        self.verdicts.push((ok, text.to_owned()));
    }

    /// Time to read, where a person does. False when the run is to end.
    fn pause(&mut self) -> bool {
        let until = Instant::now()
            + if self.once || !self.show.is_terminal() { Duration::ZERO } else { Duration::from_secs(20) };
        while Instant::now() < until && !self.signals.asked() {
            self.show.draw(false);
            match self.show.key(Duration::from_millis(200)) {
                Some(Key::Quit) => self.signals.ask(),
                Some(Key::Next) => break,
                _ => {}
            }
        }
        !self.signals.asked()
    }

    fn pause_watching(&mut self, watch: &mut Watch) -> bool {
        if self.once || !self.show.is_terminal() {
            return !self.signals.asked();
        }
        watch.show_for(Duration::from_secs(20), self.lab, self.show, self.signals)
    }

    fn names(&self) -> Vec<String> {
        self.lab.pods_of(NAMESPACE, SERVER).iter().map(|pod| pod.name().to_owned()).collect()
    }
}

fn shares(report: &Report) -> String {
    let mut all: Vec<_> = report.replicas.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    if report.failed > 0 {
        all.push(format!("{} failed", report.failed));
    }
    all.join(", ")
}

/// The call's connection to this pod broke after it was sent.
fn was_with(victim: &Pod, message: &str) -> bool {
    let endpoint =
        victim.ips().both().iter().any(|ip| message.contains(&format!("endpoint {}", SocketAddr::new(*ip, 9000))));
    endpoint && ["connection termination", "remote reset"].iter().any(|reason| message.contains(reason))
}
