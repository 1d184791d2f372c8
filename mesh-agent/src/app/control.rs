//! The control loop: configuration in, snapshot and kernel state out; questions answered in between.
//!
//! Invariant (make before break): the kernel forgets what is gone and releases pods that leave; then the snapshot is
//! published; then the kernel learns of services; then pods that join are captured, each after its listeners are open.

use super::gates::Gates;
use super::joins::Joins;
use super::metrics::{self, Gauges, Placed};
use super::parts::{self, Captured};
use super::pods::{Pods, log_problems};
use super::report::Report;
use super::signals::Signals;
use super::source::Source;
use super::{ConfigFrom, LogControl, Options, SkMsg, graph, selftest, tap, tcp, traffic, views};
use crate::admin::{self, Answer, Ask, Asker, Question, Refusal, view};
use crate::balance::Registry;
use crate::config::compile::{Compiler, Settings as CompileSettings, Update};
use crate::config::publish::{Publisher, Step};
use crate::config::resolve::{Answer as Answered, Names};
use crate::config::resource::ObjectKey;
use crate::config::source::Scan;
use crate::config::{Changes, Code, Diagnostic, Severity};
use crate::connect::Links;
use crate::costs::Costs;
use crate::explain;
use crate::install::OwnerWatch;
use crate::kernel::{self, SelfTest};
use crate::snapshot::{Snapshot, Workload};
use crate::telemetry::tap::Taps;
use crate::telemetry::trace::Traces;
use crate::telemetry::{AccessLog, LOG_PROVIDER, Metrics, Recorder};
use crate::time::Nanos;
use crate::worker::{Listening, Shared, Workers};
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, sleep_until};

/// How often series of endpoints that have gone are looked for.
const SWEEP: Duration = Duration::from_secs(60);

pub(super) struct Control {
    pub(super) options: Options,
    log: LogControl,
    started: Instant,
    compiler: Compiler,
    /// What is wrong with the files themselves; what is wrong with objects is the compiler's.
    file_findings: Vec<Diagnostic>,
    scans: mpsc::UnboundedReceiver<Scan>,
    /// Names of ServiceEntries; none where the system's resolver cannot be used.
    names: Option<Names>,
    answers: Option<mpsc::UnboundedReceiver<Answered>>,
    source: Source,
    report: Report,
    /// The first configuration is in force, and what waits for it has begun.
    begun: bool,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    gauges: Arc<Gauges>,
    /// `None` without the kernel half.
    placed: Option<Placed>,
    pub(super) workers: Arc<Workers>,
    pub(super) access_log: Arc<AccessLog>,
    traces: Arc<Traces>,
    taps: Arc<Taps>,
    costs: Arc<Costs>,
    links: Arc<Links>,
    /// SIGUSR1: logrotate has moved the access log away.
    reopen: Signal,
    pub(super) captured: Option<Captured>,
    pub(super) pods: Pods,
    pub(super) gates: Gates,
    pub(super) joins: Joins,
    /// For `--listen`; closed when dropped.
    pub(super) listening: Vec<Listening>,
    /// Why redirection is as it is, if it was switched while running.
    sk_msg_asked: Option<bool>,
    pub(super) self_test: Option<mpsc::Receiver<SelfTest>>,
    asks: mpsc::Receiver<Ask>,
    /// The admin socket's and the metrics port's.
    pub(super) servers: Vec<JoinHandle<()>>,
    /// Tells an uninstall from a restart.
    pub(super) owner: Option<OwnerWatch>,
    pub(super) draining: bool,
}

impl Control {
    /// Starts every part. Nothing is served before the first configuration has come.
    pub(super) async fn start(options: Options, log: LogControl) -> Result<Self> {
        let started = Instant::now();
        let reopen = signal(SignalKind::user_defined1()).context("signal handlers")?;
        // The socket first: it tells whether another agent is at work here.
        let socket = admin::bind(&options.run_dir)?;
        let metrics = Arc::new(Metrics::new(options.metric_series)?);
        let metrics_port = match options.metrics_addr {
            Some(addr) => Some(TcpListener::bind(addr).await.with_context(|| {
                format!("metrics endpoint on {addr} (another agent? give --metrics-addr, or `off`)")
            })?),
            None => None,
        };
        let kernel = options.kernel.as_ref().map(|kernel| parts::start_kernel(kernel, &options.node)).transpose()?;
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let registry = Arc::new(Registry::default());
        let access_log = Arc::new(AccessLog::default());
        metrics::access_log(&metrics, &access_log)?;
        access_log.set(&snapshot.load().mesh().access_log, options.access_log.as_deref(), false);
        let traces = Arc::new(Traces::new(Arc::clone(&snapshot)));
        metrics::traces(&metrics, &traces)?;
        traces.set(&snapshot.load(), options.spans.as_ref());
        let taps = Arc::new(Taps::default());
        metrics::taps(&metrics, &taps)?;
        let costs = Arc::new(Costs::default());
        metrics::costs(&metrics, &costs)?;
        let links = Arc::new(Links::default());
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            settings: Arc::default(),
            access_log: Arc::clone(&access_log),
            traces: Arc::clone(&traces),
            taps: Arc::clone(&taps),
            costs: Arc::clone(&costs),
            links: Arc::clone(&links),
        };
        let workers = Arc::new(Workers::start(options.workers, shared).context("worker threads")?);
        let gauges = Gauges::new(&metrics, options.workers)?;
        let mut placed = None;
        if let Some(kernel) = &kernel {
            metrics::kernel(&metrics, &kernel.counters())?;
            let recorder = Recorder::new(Arc::clone(&metrics), Arc::clone(&snapshot));
            placed = Some(Placed::new(recorder, kernel.counters()));
        }
        tcp::register(&metrics, &links, kernel.as_ref().map(|kernel| kernel.counters()).as_ref())?;
        let captured = kernel.map(|kernel| Captured::new(kernel, Arc::clone(&workers))).transpose()?;

        let (found, scans) = mpsc::unbounded_channel();
        let source = Source::start(&options, move |scan| drop(found.send(scan)))?;
        let report = Report::start(&options).await;
        let joins = Joins::start(&options)?;
        let (asker, asks) = Asker::new();
        let mut servers = vec![tokio::spawn(admin::serve(socket, asker.clone()))];
        servers.extend(metrics_port.map(|port| tokio::spawn(admin::serve_metrics(port, asker))));
        let owner = match &options.owner {
            Some(owner) => Some(OwnerWatch::start(owner, options.config.kubeconfig()).await.context("--owner")?),
            None => None,
        };
        let (names, answers) = match Names::of_system() {
            Ok((names, answers)) => (Some(names), Some(answers)),
            Err(error) => {
                tracing::warn!(%error, "ServiceEntries by DNS have no endpoints: the system's resolver cannot be used");
                (None, None)
            }
        };
        Ok(Self {
            compiler: Compiler::new(CompileSettings {
                node: options.node.as_str().into(),
                cluster_domain: options.cluster_domain.as_str().into(),
            }),
            options,
            log,
            started,
            file_findings: Vec::new(),
            scans,
            names,
            answers,
            source,
            report,
            begun: false,
            snapshot,
            metrics,
            gauges,
            placed,
            workers,
            access_log,
            traces,
            taps,
            costs,
            links,
            reopen,
            captured,
            pods: Pods::default(),
            gates: Gates::default(),
            joins,
            listening: Vec::new(),
            sk_msg_asked: None,
            self_test: None,
            asks,
            servers,
            owner,
            draining: false,
        })
    }

    /// The first configuration is in force.
    fn begin(&mut self) -> Result<()> {
        self.begun = true;
        if let Some(captured) = &mut self.captured {
            log_problems(&captured.kernel.sweep());
            // Only now: what a former agent left in the maps leads to open listeners again.
            captured.beat()?;
        }
        self.listen()?;
        if let Some(captured) = &mut self.captured
            && self.options.kernel.as_ref().is_some_and(|kernel| kernel.sk_msg == SkMsg::Auto)
        {
            self.self_test = Some(selftest::start(&mut captured.kernel, &self.options.run_dir));
        }
        let took = self.started.elapsed();
        tracing::info!(node = %self.options.node, workers = self.options.workers, ?took, "serving");
        Ok(())
    }

    /// Until a signal arrives.
    ///
    /// # Errors
    /// When what waits for the first configuration cannot begin.
    pub(super) async fn serve(&mut self, signals: &mut Signals) -> Result<()> {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut looks = tokio::time::interval(Links::SAMPLED);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.pods.deadline(Instant::now());
            tokio::select! {
                Some(()) = self.reopen.recv() => self.access_log.reopen(),
                signal = signals.next() => {
                    tracing::info!("{signal}: stopping");
                    return Ok(());
                }
                Some(scan) = self.scans.recv() => {
                    self.apply(scan).await;
                    if !self.begun {
                        self.begin()?;
                    }
                }
                Some(answer) = next(&mut self.answers) => self.put_in_force(Changes { resolved: vec![answer], ..Changes::default() }).await,
                Some(ask) = self.asks.recv() => self.answer(ask),
                request = self.joins.next() => {
                    if let (Some(request), Some(captured)) = (request, &mut self.captured) {
                        self.joins.hear(request, &mut self.pods, &self.snapshot.load_full(), captured).await;
                    }
                }
                Some(outcome) = outcome(&mut self.self_test) => {
                    self.self_test = None;
                    self.tested(outcome);
                }
                turned = self.report.next() => {
                    if turned {
                        self.want_secrets();
                    }
                    self.report.tell(&self.compiler, self.file_findings.iter().chain(self.compiler.diagnostics()));
                }
                () = sleep_until(due.into()), if self.begun && self.captured.is_some() => self.tick().await,
                _ = looks.tick() => self.links.sample(),
                _ = sweep.tick() => {
                    metrics::sweep(&self.metrics, &self.costs, &self.links, &self.snapshot.load());
                    self.workers.sweep();
                }
            }
            // Whoever waits may have come in by any of them.
            self.joins.settle(self.begun, &self.snapshot.load(), &self.pods, Instant::now());
        }
    }

    /// Answers questions until `done` is: a stopping agent still says that it is stopping.
    pub(super) async fn answer_until<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                value = &mut done => return value,
                Some(ask) = self.asks.recv() => self.answer(ask),
            }
        }
    }

    async fn apply(&mut self, scan: Scan) {
        for finding in scan.diagnostics.iter().filter(|finding| !self.file_findings.contains(finding)) {
            log(finding);
        }
        self.file_findings = scan.diagnostics;
        self.put_in_force(scan.changes).await;
    }

    async fn put_in_force(&mut self, changes: Changes) {
        let update = self.compiler.apply(changes);
        if let Some(names) = &mut self.names {
            names.want(self.compiler.names());
        }
        self.want_secrets();
        self.report.changed();
        update.diagnostics.iter().for_each(log);
        if update.is_change() {
            self.publish(&update).await;
        }
        let findings = views::counts(self.findings().iter());
        self.gauges.configured(self.snapshot.load().generation, findings);
        self.count_pods();
    }

    /// Those of this node's gateways; the writer of statuses looks at all that Gateways name.
    fn want_secrets(&mut self) {
        let mut wanted: BTreeSet<ObjectKey> = self.compiler.secrets().cloned().collect();
        if self.report.is_leading() {
            wanted.extend(self.compiler.judged_secrets());
        }
        self.source.want_secrets(wanted.iter());
    }

    async fn publish(&mut self, update: &Update) {
        let now = Instant::now();
        let wanted = update.snapshot.wants_log(LOG_PROVIDER);
        self.access_log.set(&update.snapshot.mesh().access_log, self.options.access_log.as_deref(), wanted);
        self.traces.set(&update.snapshot, self.options.spans.as_ref());
        self.workers.expect(&update.snapshot, &update.touched_services);
        let (captured, pods, gates) = (&mut self.captured, &mut self.pods, &mut self.gates);
        Publisher::new(Arc::clone(&self.snapshot), |step: Step<'_>| {
            let Some(captured) = captured.as_mut() else { return };
            let (Step::Remove { new: snapshot, update, .. } | Step::Add { new: snapshot, update, .. }) = step;
            let update = kernel::Update {
                snapshot,
                services: &update.touched_services,
                workloads: &update.touched_workloads,
                hosts: &update.touched_hosts,
                scopes: update.touched_scopes,
            };
            let report = match step {
                Step::Remove { .. } => {
                    pods.release(snapshot, captured, now);
                    gates.release(snapshot);
                    captured.kernel.retract(&update)
                }
                Step::Add { .. } => captured.kernel.apply(&update),
            };
            log_problems(&report);
        })
        .publish(update);
        if !(update.touched_hosts.is_empty() && update.touched_workloads.is_empty()) {
            self.workers.forget_tokens(&update.snapshot);
        }
        if let Some(captured) = &mut self.captured {
            self.pods.enrol(&update.snapshot, captured).await;
            self.gates.open(&update.snapshot, captured).await;
        }
        tracing::info!(
            generation = update.snapshot.generation,
            services = update.touched_services.len(),
            workloads = update.touched_workloads.len(),
            took = ?now.elapsed(),
            "configuration in force"
        );
    }

    /// The self-test is done. A switch thrown meanwhile by hand counts more.
    fn tested(&mut self, outcome: SelfTest) {
        if let (Some(captured), None) = (&mut self.captured, self.sk_msg_asked) {
            selftest::apply(&mut captured.kernel, outcome);
        }
    }

    async fn tick(&mut self) {
        if let Some(captured) = &mut self.captured {
            let snapshot = self.snapshot.load_full();
            self.pods.tick(&snapshot, captured, Instant::now()).await;
            self.gates.open(&snapshot, captured).await;
            self.joins.look_back(&snapshot, &self.pods);
        }
        self.count_pods();
    }

    /// Opens the listeners asked for by `--listen`. A Service that is not configured yet is no error: it may come.
    fn listen(&mut self) -> Result<()> {
        for explicit in &self.options.listen {
            let listener = explicit.bind().with_context(|| format!("--listen {explicit}"))?;
            self.listening.push(self.workers.serve_explicit(listener, explicit.target.clone()));
        }
        self.listen_findings().iter().for_each(log);
        Ok(())
    }

    fn listen_findings(&self) -> Vec<Diagnostic> {
        let snapshot = self.snapshot.load();
        let unknown = self.options.listen.iter().filter(|explicit| snapshot.port(&explicit.target).is_none());
        let finding = |explicit: &super::Explicit| {
            let message =
                format!("--listen {explicit}: no such Service and port is configured; requests are answered 503");
            let fix = "add the Service, or correct NAMESPACE/SERVICE:PORT; `mesh-agent services` lists what there is";
            Diagnostic::warning(Code::ListenUnknown, message).fix(fix)
        };
        unknown.map(finding).collect()
    }

    fn findings(&self) -> Vec<Diagnostic> {
        let files = self.file_findings.iter().chain(self.compiler.diagnostics()).cloned();
        files.chain(self.listen_findings()).collect()
    }

    fn count_pods(&self) {
        let pods = views::pods(&self.snapshot.load(), &self.options.node, self.watched_pods());
        self.gauges.pods(pods.in_mesh.len(), pods.outside.len());
    }

    fn watched_pods(&self) -> Option<&Pods> {
        self.captured.as_ref().map(|_| &self.pods)
    }

    fn answer(&mut self, ask: Ask) {
        let answer = self.answer_to(ask.question);
        // Whoever asked may have gone away.
        let _ = ask.reply.send(answer);
    }

    fn answer_to(&mut self, question: Question) -> Result<Answer, Refusal> {
        let snapshot = self.snapshot.load_full();
        match question {
            Question::Status => Answer::json(&self.status(&snapshot)),
            Question::Endpoints => Answer::json(&views::endpoints(&snapshot, &self.workers)),
            Question::Services => Answer::json(&views::services(&snapshot, self.captured.is_some())),
            Question::Workloads => Answer::json(&views::workloads(&snapshot, self.watched_pods())),
            Question::Kernel => self.kernel(),
            Question::Graph => Answer::json(&graph::view(&self.metrics, &snapshot, &self.options.node)),
            Question::Traffic => {
                Answer::json(&traffic::view(&self.metrics, &self.costs, &snapshot, &self.options.node))
            }
            Question::Snapshot => Answer::json(&views::snapshot(&snapshot)),
            Question::Diagnostics => {
                let all = [self.findings(), self.compiler.analysis()].concat();
                Answer::json(&views::diagnostics(all.iter()))
            }
            Question::Connections => Answer::json(&views::connection_list(&self.workers)),
            Question::Explain(question) => {
                let explained = explain::explain(&self.world(&snapshot, &|workload| self.trouble(workload)), &question);
                Answer::json(&explained.map_err(|wrong| Refusal::Invalid(wrong.to_string()))?)
            }
            Question::Seen(look) => {
                let seen = explain::seen::look(&self.world(&snapshot, &|workload| self.trouble(workload)), &look);
                Answer::json(&seen.map_err(|wrong| Refusal::Invalid(wrong.to_string()))?)
            }
            Question::LogLevel => Answer::json(&view::LogLevel { filter: self.log.filter() }),
            Question::SetLogLevel(filter) => {
                self.log.set(&filter).map_err(Refusal::Invalid)?;
                tracing::info!(%filter, "log filter changed");
                Answer::json(&view::LogLevel { filter })
            }
            Question::SetSkMsg(on) => self.set_sk_msg(on),
            Question::Tap(question) => tap::open(&self.taps, &question),
            Question::Ready => self.ready(),
            Question::Metrics(format) => {
                self.placed.iter_mut().for_each(|placed| placed.count(&snapshot));
                Ok(Answer::Metrics(format, self.metrics.gather(format)))
            }
        }
    }

    fn world<'a>(
        &'a self,
        snapshot: &'a Arc<Snapshot>,
        trouble: &'a dyn Fn(&Workload) -> Option<String>,
    ) -> explain::World<'a> {
        let (compiler, registry) = (&self.compiler, self.workers.registry());
        explain::World { snapshot, compiler, registry, trouble, live: true, now: Nanos::now() }
    }

    fn trouble(&self, workload: &Workload) -> Option<String> {
        match self.watched_pods() {
            None => Some(views::NO_KERNEL.into()),
            Some(pods) => pods.trouble(&workload.key),
        }
    }

    /// Whether new connections of this node's pods are served.
    fn ready(&self) -> Result<Answer, Refusal> {
        let why = match (self.begun, self.draining, &self.captured) {
            (false, ..) => "waiting for the first configuration",
            (true, true, _) => "stopping",
            (true, false, Some(captured)) if !captured.is_beating() => "a worker hangs: the kernel sends nothing here",
            (true, false, _) => return Ok(Answer::Text("ready\n".into())),
        };
        Err(Refusal::NotReady(why.into()))
    }

    fn status(&self, snapshot: &Snapshot) -> view::Status {
        let endpoints = snapshot.services().flat_map(|s| &s.ports).map(|port| port.endpoints.endpoints.len());
        let listeners = self.options.listen.iter().map(|explicit| view::Listener {
            addr: explicit.addr,
            target: explicit.target.to_string(),
            known: snapshot.port(&explicit.target).is_some(),
        });
        view::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.options.node.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            draining: self.draining,
            workers: self.options.workers,
            config: view::ConfigStatus {
                sources: match &self.options.config {
                    ConfigFrom::Files(paths) => paths.clone(),
                    ConfigFrom::Cluster(_) => Vec::new(),
                },
                cluster: self.source.view(),
                generation: snapshot.generation,
                services: snapshot.services().count(),
                endpoints: endpoints.sum(),
                diagnostics: views::counts(self.findings().iter()),
            },
            pods: views::pods(snapshot, &self.options.node, self.watched_pods()),
            kernel: match &self.captured {
                None => views::no_kernel(),
                Some(captured) => {
                    let status = captured.kernel.status();
                    views::kernel_status(&status, self.sk_msg(&status))
                }
            },
            cni: self.joins.chained(),
            connections: views::connections(&self.workers),
            listeners: listeners.collect(),
            metrics_addr: self.options.metrics_addr,
        }
    }

    fn kernel(&self) -> Result<Answer, Refusal> {
        let Some(captured) = &self.captured else {
            return Answer::json(&view::Kernel { status: views::no_kernel(), ..view::Kernel::default() });
        };
        let sk_msg = self.sk_msg(&captured.kernel.status());
        let kernel = views::kernel(&captured.kernel, sk_msg).map_err(|error| Refusal::Failed(error.to_string()))?;
        Answer::json(&kernel)
    }

    fn sk_msg(&self, status: &kernel::Status) -> view::Switch {
        let reason = match (self.sk_msg_asked, &self.options.kernel) {
            (Some(_), _) => "switched while running".to_owned(),
            (None, Some(options)) if options.sk_msg == SkMsg::Off => "--sk-msg off".to_owned(),
            _ => status.self_test.detail.clone(),
        };
        view::Switch { on: status.sk_msg, reason }
    }

    fn set_sk_msg(&mut self, on: bool) -> Result<Answer, Refusal> {
        let Some(captured) = &mut self.captured else {
            return Err(Refusal::Unavailable(views::NO_KERNEL.into()));
        };
        captured.kernel.set_sk_msg(on).map_err(|error| Refusal::Failed(error.to_string()))?;
        let status = captured.kernel.status();
        if on && !status.sk_msg {
            return Err(Refusal::Unavailable(
                "the sk_msg program is not attached here: see `mesh-agent kernel`".into(),
            ));
        }
        self.sk_msg_asked = Some(on);
        tracing::info!(on, "socket redirection switched");
        Answer::json(&self.sk_msg(&status))
    }
}

/// Waits for ever where nothing is resolved.
async fn next(of: &mut Option<mpsc::UnboundedReceiver<Answered>>) -> Option<Answered> {
    match of {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for ever where no test is under way.
async fn outcome(of: &mut Option<mpsc::Receiver<SelfTest>>) -> Option<SelfTest> {
    match of {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn log(finding: &Diagnostic) {
    match finding.severity {
        Severity::Error => tracing::error!("{finding}"),
        Severity::Warning => tracing::warn!("{finding}"),
        Severity::Info => tracing::info!("{finding}"),
    }
}
