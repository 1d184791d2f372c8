//! What the agent spends for each pod: CPU time of its workers, and memory.
//!
//! Place in the path: around every task that works for a connection, until its end. Whoever made the connection pays for
//! all of it: its requests, its part of the pools, the endpoints' answers.
//! CPU time: tasks' polls are measured by the clock, of many only a part; once a second each worker shares out what its
//! thread has used, as the kernel says, in proportion. So a poll costs a few nanoseconds, and what pods and the agent
//! itself are said to have used is what the threads used, exactly.
//! Memory: what an idle connection takes, for each, and what readers that stall make the agent hold.

use crate::snapshot::{Workload, WorkloadKey};
use crate::time::Nanos;
use pin_project_lite::pin_project;
use rustc_hash::FxHashMap;
use rustix::time::{ClockId, clock_gettime};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::spawn_local;

/// What an idle connection takes, bytes (measured: `mesh-agent` with 10,000 of them).
pub const CONNECTION: usize = 23 << 10;
/// Polls of a worker that are measured in a second, about: 100,000 polls a second are measured one in sixteen.
const MEASURED: u64 = 6_000;
/// At least one poll of so many is measured.
const SPARSEST: u64 = 16;

/// Of all pods. Shared by all threads; workers write to it once a second.
#[derive(Debug, Default)]
pub struct Costs {
    pods: Mutex<FxHashMap<WorkloadKey, Arc<Spent>>>,
    /// For no pod: ticks, sweeps, clients of `--listen`.
    own: Arc<Spent>,
}

/// For one pod, since it was first seen.
#[derive(Debug, Default)]
pub struct Spent {
    workload: Option<Arc<Workload>>,
    cpu_nanos: AtomicU64,
    bytes: AtomicU64,
}

/// One worker's part of what is spent for one pod.
#[derive(Debug)]
pub struct Account {
    spent: Arc<Spent>,
    /// Nanoseconds of the polls that were measured since the last time.
    measured: Cell<u64>,
}

/// One worker's accounts.
#[derive(Debug)]
pub struct Accounts {
    costs: Arc<Costs>,
    pods: RefCell<FxHashMap<WorkloadKey, Rc<Account>>>,
    own: Rc<Account>,
    /// The thread's CPU time that was shared out.
    settled: Cell<Duration>,
}

/// Bytes held for whoever paid when this was made, until it is dropped.
#[derive(Debug)]
pub struct Held {
    payer: Option<Rc<Account>>,
    bytes: Cell<usize>,
}

/// Which polls are measured, and who pays for what runs now.
struct Meter {
    payer: Cell<Option<Rc<Account>>>,
    /// Polls until the next one that is measured.
    left: Cell<u64>,
    every: Cell<u64>,
    polls: Cell<u64>,
}

thread_local! {
    static METER: Meter = const { Meter { payer: Cell::new(None), left: Cell::new(1), every: Cell::new(1), polls: Cell::new(0) } };
}

pin_project! {
    /// A task whose polls somebody pays for.
    struct Paid<F> {
        payer: Rc<Account>,
        #[pin]
        task: F,
    }
}

impl<F: Future> Future for Paid<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        METER.with(|meter| meter.charge(this.payer, || this.task.poll(cx)))
    }
}

/// As `spawn_local`; the task is paid for by whoever pays for the caller.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    match payer() {
        Some(payer) => drop(spawn_local(Paid { payer, task })),
        None => drop(spawn_local(task)),
    }
}

/// As `spawn_local`, paid for from now on.
pub fn spawn_for(payer: Rc<Account>, task: impl Future<Output = ()> + 'static) {
    spawn_local(Paid { payer, task });
}

fn payer() -> Option<Rc<Account>> {
    METER.with(|meter| {
        let payer = meter.payer.take();
        meter.payer.set(payer.clone());
        payer
    })
}

impl Meter {
    fn charge<T>(&self, payer: &Rc<Account>, work: impl FnOnce() -> T) -> T {
        let former = self.payer.replace(Some(Rc::clone(payer)));
        let begun = self.is_due().then(Nanos::now);
        let done = work();
        if let Some(begun) = begun {
            let nanos = u64::try_from(Nanos::now().since(begun).as_nanos()).unwrap_or(u64::MAX);
            payer.measured.set(payer.measured.get().saturating_add(nanos));
        }
        self.payer.set(former);
        done
    }

    /// One of `every`, at random: the polls of a request come in a fixed order.
    fn is_due(&self) -> bool {
        self.polls.set(self.polls.get() + 1);
        let left = self.left.get() - 1;
        if left == 0 {
            self.left.set(fastrand::u64(1..2 * self.every.get()));
        } else {
            self.left.set(left);
        }
        left == 0
    }

    /// How many polls there were since the last time decides how many are measured until the next.
    fn adjust(&self) {
        self.every.set((self.polls.replace(0) / MEASURED).clamp(1, SPARSEST));
        self.left.set(self.left.get().min(self.every.get()));
    }
}

impl Accounts {
    /// To be made on the worker's own thread.
    pub fn new(costs: Arc<Costs>) -> Self {
        let own = Rc::new(Account { spent: Arc::clone(&costs.own), measured: Cell::new(0) });
        Self { costs, pods: RefCell::default(), own, settled: Cell::new(thread_time()) }
    }

    /// Who pays for a client's connection.
    pub fn of(&self, workload: Option<&Arc<Workload>>) -> Rc<Account> {
        let Some(workload) = workload else { return Rc::clone(&self.own) };
        let mut pods = self.pods.borrow_mut();
        if let Some(account) = pods.get(&workload.key) {
            return Rc::clone(account);
        }
        let account = Rc::new(Account { spent: self.costs.of(workload), measured: Cell::new(0) });
        pods.insert(workload.key.clone(), Rc::clone(&account));
        account
    }

    /// Shares out the CPU time that the thread has used since the last time; to be called once a second or so.
    pub fn settle(&self) {
        let pods = self.pods.borrow();
        let accounts = || pods.values().chain([&self.own]);
        let measured: u64 = accounts().map(|account| account.measured.get()).sum();
        let used = thread_time();
        // Nothing was measured: it waits for the next time.
        if measured > 0 {
            let nanos = used.saturating_sub(self.settled.replace(used)).as_nanos() as f64;
            for account in accounts() {
                let share = account.measured.replace(0) as f64 / measured as f64;
                account.spent.cpu_nanos.fetch_add((nanos * share) as u64, Relaxed);
            }
        }
        drop(pods);
        // Whose connections have all ended; the sum stays in `Costs`.
        self.pods.borrow_mut().retain(|_, account| Rc::strong_count(account) > 1);
        METER.with(Meter::adjust);
    }
}

impl Costs {
    fn of(&self, workload: &Arc<Workload>) -> Arc<Spent> {
        let mut pods = self.lock();
        let spent = pods.entry(workload.key.clone());
        Arc::clone(
            spent.or_insert_with(|| Arc::new(Spent { workload: Some(Arc::clone(workload)), ..Spent::default() })),
        )
    }

    /// What is spent for each pod, in no order.
    pub fn pods(&self) -> Vec<Arc<Spent>> {
        self.lock().values().cloned().collect()
    }

    /// What is spent for none.
    pub fn own(&self) -> &Spent {
        &self.own
    }

    /// Forgets pods that have gone and have no connections any more.
    pub fn sweep(&self, alive: impl Fn(&WorkloadKey) -> bool) {
        self.lock().retain(|key, spent| Arc::strong_count(spent) > 1 || alive(key));
    }

    /// Numbers stay usable whatever panicked elsewhere.
    fn lock(&self) -> MutexGuard<'_, FxHashMap<WorkloadKey, Arc<Spent>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    /// `None`: for no pod.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        self.workload.as_ref()
    }

    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Relaxed))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Held {
    /// For whoever pays for the caller.
    pub fn new(bytes: usize) -> Self {
        let held = Self { payer: payer(), bytes: Cell::new(0) };
        held.set(bytes);
        held
    }

    pub fn set(&self, bytes: usize) {
        let former = self.bytes.replace(bytes);
        if let Some(payer) = &self.payer {
            // Modulo 2^64, so that falling is adding too.
            payer.spent.bytes.fetch_add((bytes as u64).wrapping_sub(former as u64), Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// CPU time of the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
