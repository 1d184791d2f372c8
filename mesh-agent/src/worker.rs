//! Threads: one single-threaded runtime per core.
//!
//! Place in the path: around everything from `listen` to `forward`. Invariant: a connection lives and dies on one
//! worker, with that worker's pools; workers share the snapshot, endpoint states and metric atomics, nothing else.

use crate::balance::{EndpointRow, Registry};
use crate::connect::{Links, Pools, Upstreams};
use crate::connections::Connection;
use crate::costs::{self, Accounts, CONNECTION, Costs, Held};
use crate::destination::Destinations;
use crate::drain::{Drain, Watch};
use crate::http2::Ledger;
use crate::listen::tls::TlsConfigs;
use crate::listen::{self, Accepted, Limits, Origin, Pod};
use crate::policy::Buckets;
use crate::proxy;
use crate::settings::Settings;
use crate::snapshot::{PortKey, ServiceName, Snapshot, WorkloadKey};
use crate::telemetry::tap::{Looker, Taps};
use crate::telemetry::trace::{Tracer, Traces};
use crate::telemetry::{AccessLog, Logger, Metrics, Recorder};
use crate::time::{Alarms, Nanos};
use arc_swap::ArcSwap;
use rustc_hash::FxHashSet;
use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub registry: Arc<Registry>,
    pub settings: Arc<Settings>,
    pub access_log: Arc<AccessLog>,
    pub traces: Arc<Traces>,
    pub taps: Arc<Taps>,
    pub costs: Arc<Costs>,
    pub links: Arc<Links>,
}

/// What one worker's connections share.
#[derive(Debug)]
pub struct Ctx {
    pub destinations: Destinations,
    pub pools: Rc<Pools>,
    pub recorder: Recorder,
    pub log: Rc<Logger>,
    pub tracer: Tracer,
    pub looker: Looker,
    pub accounts: Accounts,
    pub settings: Arc<Settings>,
    pub tls: Arc<TlsConfigs>,
    pub ledger: Arc<Ledger>,
    pub buckets: Arc<Buckets>,
    pub alarms: Rc<Alarms>,
    pub rng: RefCell<fastrand::Rng>,
    pub drain: Watch,
}

/// The running workers. Dropping it ends them at once; `drain` first lets requests finish.
#[derive(Debug)]
pub struct Workers {
    workers: Arc<[Worker]>,
    threads: Vec<JoinHandle<()>>,
    ticks: Arc<[AtomicU64]>,
    limits: Arc<Limits>,
    buckets: Arc<Buckets>,
    shared: Shared,
    drain: Drain,
    next: AtomicUsize,
}

/// Stops accepting when dropped; connections already accepted go on.
#[derive(Debug)]
pub struct Listening {
    _stop: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    open: Arc<AtomicUsize>,
}

enum Job {
    Serve(Box<Accepted>),
    Listen { listener: TcpListener, origin: Origin, stop: oneshot::Receiver<()> },
}

/// How often a worker says that it lives.
const TICK: Duration = Duration::from_millis(50);
/// How often pools are searched for what is idle.
const SWEEP: Duration = Duration::from_secs(1);

impl Workers {
    /// Starts `count` threads (at least one).
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(count: usize, shared: Shared) -> io::Result<Self> {
        let count = count.max(1);
        let ticks: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let limits = Limits::new(shared.settings.max_connections);
        let ledger = Arc::new(Ledger::new(shared.settings.stalled_bytes));
        let upstreams = Arc::new(Upstreams::new(Arc::clone(&shared.settings), Arc::clone(&shared.links)));
        let buckets = Arc::new(Buckets::default());
        let tls = Arc::new(TlsConfigs::default());
        let drain = Drain::default();
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (jobs, inbox) = mpsc::unbounded_channel();
                (Worker { jobs, open: Arc::default() }, inbox)
            })
            .unzip();
        let workers: Arc<[Worker]> = workers.into();
        let mut threads = Vec::with_capacity(count);
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let run = Run {
                index,
                inbox,
                workers: Arc::downgrade(&workers),
                ticks: Arc::clone(&ticks),
                limits: Arc::clone(&limits),
                ledger: Arc::clone(&ledger),
                upstreams: Arc::clone(&upstreams),
                buckets: Arc::clone(&buckets),
                tls: Arc::clone(&tls),
                drain: drain.watch(),
                shared: shared.clone(),
            };
            let (ready, started) = std::sync::mpsc::channel();
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || run.main(&ready))?);
            started.recv().map_err(|_| io::Error::other("worker ended at its start"))??;
        }
        Ok(Self { workers, threads, ticks, limits, buckets, shared, drain, next: AtomicUsize::new(0) })
    }

    /// Serves a listener whose connections all go to one service port.
    pub fn serve_explicit(&self, listener: TcpListener, port: PortKey) -> Listening {
        self.listen(vec![listener], &Origin::Explicit(port))
    }

    /// Serves listeners inside a pod's network namespace (`kernel::PodListeners`, `v4` and `v6` together).
    pub fn serve_captured(&self, listeners: Vec<TcpListener>, pod: Arc<Pod>) -> Listening {
        self.listen(listeners, &Origin::Captured(pod))
    }

    /// Serves a gateway pod's port.
    pub fn serve_gateway(&self, listener: TcpListener, pod: Arc<Pod>, port: u16) -> Listening {
        self.listen(vec![listener], &Origin::Gateway(pod, port))
    }

    /// Sends GOAWAY and `connection: close`, waits until all connections ended, at most for `timeout`. True where all
    /// did. Listeners should be dropped before. HTTP/1.1 connections without a request stay for half of the time, at
    /// most `Settings::drain_grace`.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.drain.start(self.shared.settings.drain_grace.min(timeout / 2));
        let ended = async {
            while self.limits.open() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(timeout, ended).await.is_ok()
    }

    /// Forgets the tokens of rate limits, and of sources, that `snapshot` does not know.
    pub fn forget_tokens(&self, snapshot: &Snapshot) {
        if self.buckets.is_empty() {
            return;
        }
        // Gateways' own hosts have no limits: a RequestPolicy is laid over the mesh's.
        let routes = snapshot.virtual_hosts().flat_map(|host| host.routes.iter());
        let limits = routes.filter_map(|route| route.rate_limit.as_ref());
        let rules: FxHashSet<_> = limits.map(|limit| (&limit.rule, &*limit.scope)).collect();
        let known = |source: &WorkloadKey| snapshot.workload(source).is_some();
        self.buckets.retain(|rule, scope, source| rules.contains(&(rule, scope)) && source.is_none_or(known));
    }

    /// One counter per worker, growing while the worker's loop turns.
    pub fn ticks(&self) -> Arc<[AtomicU64]> {
        Arc::clone(&self.ticks)
    }

    /// Open client connections, by worker.
    pub fn connections(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.open.load(Relaxed)).collect()
    }

    /// Open client connections one by one, the oldest first, `most` at most.
    pub fn oldest_connections(&self, most: usize) -> Vec<Arc<Connection>> {
        self.limits.listed().oldest(most)
    }

    /// To be called before a snapshot is put in force: which endpoints come with it. `services`: those that differ.
    pub fn expect(&self, new: &Snapshot, services: &[ServiceName]) {
        self.shared.registry.arrive(&self.shared.snapshot.load(), new, services, Nanos::now());
    }

    /// Forgets what is known of endpoints that nobody uses.
    pub fn sweep(&self) {
        self.shared.registry.sweep(Nanos::now());
    }

    /// What is known of endpoints at run time.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Endpoints in use with their run-time state.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        self.shared.registry.rows(Nanos::now())
    }

    fn listen(&self, listeners: Vec<TcpListener>, origin: &Origin) -> Listening {
        let stops = listeners.into_iter().filter_map(|listener| {
            let (stop, stopped) = oneshot::channel();
            let index = self.next.fetch_add(1, Relaxed) % self.workers.len();
            let job = Job::Listen { listener, origin: origin.clone(), stop: stopped };
            // A worker that is gone has taken the agent with it.
            self.workers.get(index)?.jobs.send(job).ok()?;
            Some(stop)
        });
        Listening { _stop: stops.collect() }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The last strong reference to the senders: the workers' inboxes end and with them the threads.
        self.workers = Arc::new([]);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One thread's start parameters.
struct Run {
    index: usize,
    inbox: mpsc::UnboundedReceiver<Job>,
    workers: std::sync::Weak<[Worker]>,
    ticks: Arc<[AtomicU64]>,
    limits: Arc<Limits>,
    ledger: Arc<Ledger>,
    upstreams: Arc<Upstreams>,
    buckets: Arc<Buckets>,
    tls: Arc<TlsConfigs>,
    drain: Watch,
    shared: Shared,
}

impl Run {
    fn main(mut self, ready: &std::sync::mpsc::Sender<io::Result<()>>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                // The receiver waits for it.
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        runtime.block_on(async {
            let ctx = Rc::new(Ctx {
                destinations: Destinations::new(
                    Arc::clone(&self.shared.snapshot),
                    Arc::clone(&self.shared.registry),
                    Arc::clone(&self.upstreams),
                ),
                pools: Rc::new(Pools::new(Arc::clone(&self.ledger), Arc::clone(&self.upstreams))),
                recorder: Recorder::new(Arc::clone(&self.shared.metrics), Arc::clone(&self.shared.snapshot)),
                log: Rc::new(Logger::new(Arc::clone(&self.shared.access_log))),
                tracer: Tracer::new(Arc::clone(&self.shared.traces)),
                looker: Looker::new(Arc::clone(&self.shared.taps)),
                accounts: Accounts::new(Arc::clone(&self.shared.costs)),
                settings: Arc::clone(&self.shared.settings),
                ledger: Arc::clone(&self.ledger),
                buckets: Arc::clone(&self.buckets),
                tls: Arc::clone(&self.tls),
                alarms: Rc::new(Alarms::new(Nanos::now())),
                rng: RefCell::new(fastrand::Rng::new()),
                drain: self.drain.clone(),
            });
            let own = || ctx.accounts.of(None);
            costs::spawn_for(own(), tick(self.index, Arc::clone(&self.ticks)));
            costs::spawn_for(own(), sweep(Rc::clone(&ctx)));
            let alarms = Rc::clone(&ctx.alarms);
            costs::spawn_for(own(), async move { alarms.run().await });
            while let Some(job) = self.inbox.recv().await {
                match job {
                    Job::Serve(accepted) => {
                        let payer = ctx.accounts.of(accepted.source.workload.as_ref());
                        let ctx = Rc::clone(&ctx);
                        // Made inside: a future that is handed in is held twice, where it came and where it runs.
                        costs::spawn_for(payer, async move {
                            let _held = Held::new(CONNECTION);
                            proxy::serve(accepted, ctx).await;
                        });
                    }
                    Job::Listen { listener, origin, stop } => self.accept(listener, origin, stop),
                }
            }
        });
    }

    fn accept(&self, listener: TcpListener, origin: Origin, stop: oneshot::Receiver<()>) {
        let (workers, limits) = (self.workers.clone(), Arc::clone(&self.limits));
        let metrics = Arc::clone(&self.shared.metrics);
        tokio::task::spawn_local(async move {
            let dispatch = |accepted| dispatch(&workers, accepted);
            tokio::select! {
                result = listen::run(listener, &origin, &limits, &metrics, dispatch) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "listener lost");
                    }
                }
                _ = stop => {}
            }
        });
    }
}

/// To the worker with the fewest open connections.
fn dispatch(workers: &std::sync::Weak<[Worker]>, accepted: Accepted) {
    let Some(workers) = workers.upgrade() else { return };
    let Some(worker) = workers.iter().min_by_key(|worker| worker.open.load(Relaxed)) else { return };
    let Accepted { stream, client, wants, source, guard } = accepted;
    let guard = guard.on(&worker.open);
    // A closed inbox drops, and so closes, the connection: the agent is ending.
    let _ = worker.jobs.send(Job::Serve(Box::new(Accepted { stream, client, wants, source, guard })));
}

async fn tick(index: usize, ticks: Arc<[AtomicU64]>) {
    let mut interval = tokio::time::interval(TICK);
    while let Some(counter) = ticks.get(index) {
        interval.tick().await;
        counter.fetch_add(1, Relaxed);
    }
}

async fn sweep(ctx: Rc<Ctx>) {
    let mut interval = tokio::time::interval(SWEEP);
    loop {
        interval.tick().await;
        ctx.pools.sweep(Nanos::now());
        ctx.log.flush();
        ctx.tracer.sweep();
        ctx.looker.sweep();
        ctx.accounts.settle();
        if ctx.destinations.sweep() {
            ctx.recorder.forget();
        }
    }
}
