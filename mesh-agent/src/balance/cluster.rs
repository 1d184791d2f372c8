//! One port's or subset's endpoints under one policy, as a client sees them.

use super::levels::{Level, View};
use super::locality::{Outlook, Rank};
use super::outlier::Detector;
use super::policy::{Candidates, Dice, Policy};
use super::tables::Tables;
use super::{ActiveRequest, Ended, EndpointState, Registry};
use crate::addr::EndpointAddr;
use crate::snapshot::policy::{Balancer, LocalityPolicy, TrafficPolicy};
use crate::snapshot::{ClusterKey, Endpoint, EndpointHealth, EndpointSet, LbPolicy, TrafficDistribution, Workload};
use crate::time::Nanos;
use arc_swap::ArcSwapOption;
use fastrand::Rng;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What a cluster is made of. Equal specs are one cluster: `Registry::cluster`.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    pub key: &'a ClusterKey,
    /// Of the whole port.
    pub endpoints: &'a Arc<EndpointSet>,
    /// Of the subset: only endpoints whose workload has all of them.
    pub labels: Option<&'a BTreeMap<Arc<str>, Arc<str>>>,
    pub policy: &'a Arc<TrafficPolicy>,
    /// What `Balancer::Default` means on this port.
    pub lb: LbPolicy,
    /// Where the policy says nothing of localities.
    pub distribution: Option<TrafficDistribution>,
    /// The mesh's: where neither the policy nor the Service says anything.
    pub locality: Option<&'a Arc<LocalityPolicy>>,
    /// Whose requests, for locality and labels; `None`: the agent's own listeners.
    pub client: Option<&'a Workload>,
}

/// Made once per change of the endpoints or the policy, used for every request in between, by all workers.
#[derive(Debug)]
pub struct Cluster {
    key: ClusterKey,
    /// Identity of the set the cluster was made from: another pointer means another cluster.
    set: Arc<EndpointSet>,
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    policy: Arc<TrafficPolicy>,
    locality: Option<Arc<LocalityPolicy>>,
    outlook: Outlook,
    choice: Policy,
    /// Ready endpoints, or the draining ones where none is ready (KEP-1669), in order of priority.
    levels: Vec<Arc<Level>>,
    /// With nothing ejected.
    whole: View,
    /// As of the last ejection or return.
    current: ArcSwapOption<View>,
    detector: Option<Arc<Detector>>,
    tables: Option<Tables>,
    /// Position of round robin, shared by all workers so that shares are exact whoever serves.
    cursor: Arc<AtomicUsize>,
    /// Endpoints that no set lists: `Balancer::Passthrough`.
    strangers: Mutex<FxHashMap<EndpointAddr, Weak<EndpointState>>>,
}

/// What one attempt wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Endpoints of former attempts: not chosen while there is another.
    pub tried: &'a [EndpointAddr],
    /// `affinity`'s number; without one a consistent hash chooses at random.
    pub hash: Option<u64>,
    /// Priorities of former attempts that shall not be used (`retryRemoteLocalities`), while there are others.
    pub exclude: Priorities,
    /// Where the client's connection wants to go, for `Balancer::Passthrough`.
    pub original: Option<EndpointAddr>,
    pub now: Nanos,
}

/// A set of priorities; those from 31 on count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priorities(u32);

impl Priorities {
    pub fn insert(&mut self, priority: u8) {
        self.0 |= Self::bit(priority);
    }

    pub fn contains(self, priority: u8) -> bool {
        self.0 & Self::bit(priority) != 0
    }

    fn bit(priority: u8) -> u32 {
        1 << priority.min(31)
    }
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub state: Arc<EndpointState>,
    /// 0: the closest.
    pub priority: u8,
    detector: Option<Arc<Detector>>,
}

impl Chosen {
    /// Which endpoint it is.
    pub fn addr(&self) -> EndpointAddr {
        self.state.addr
    }

    /// Where to connect.
    pub fn dialled(&self) -> EndpointAddr {
        self.state.dialled()
    }

    /// Counts an attempt as in flight until the guard is dropped.
    pub fn start(&self, now: Nanos) -> ActiveRequest {
        self.state.start(self.detector.clone(), now)
    }

    /// The request's time ended before the endpoint's answer began.
    pub fn timed_out(&self, now: Nanos) {
        self.state.count_late();
        if let Some(detector) = &self.detector {
            detector.report(&self.state, Ended::Timeout, now);
        }
    }

    /// Another endpoint, asked later, answered first.
    pub fn overtaken(&self, since: Nanos, now: Nanos) {
        self.state.at_least(now.since(since));
    }
}

/// Why there is nothing to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("no endpoints")]
    Empty,
    #[error("all endpoints are ejected")]
    Ejected,
}

impl<'a> Spec<'a> {
    /// The policy's, else the Service's own (then `None`), else the mesh's (SEMANTICS §5 "Locality").
    pub(super) fn locality(&self) -> Option<&'a Arc<LocalityPolicy>> {
        let mesh = self.locality.filter(|_| self.distribution.is_none());
        self.policy.locality.as_ref().or(mesh)
    }
}

impl Cluster {
    /// Only `Registry::cluster` and tests call it.
    pub(super) fn new(spec: &Spec<'_>, registry: &Registry, now: Nanos) -> Self {
        let outlook = Outlook::of(spec);
        let mut members = usable(spec);
        let others = paired(&mut members);
        let level = |rank: &Rank<'_>| {
            let state = |e: &&Endpoint| registry.endpoint(spec.key, e.addr, others.get(&e.addr).copied());
            let states = rank.members.iter().map(state).collect();
            let weights = rank.members.iter().map(|e| e.weight).collect();
            Arc::new(Level { priority: rank.priority, weight: rank.weight, hosts: Candidates::new(states, weights) })
        };
        let levels: Vec<_> = outlook.ranks(spec.locality().map(|l| &**l), &members).iter().map(level).collect();
        let detector = spec.policy.outlier.as_ref().map(|settings| {
            let hosts = levels.iter().flat_map(|level| level.hosts.states.iter().cloned()).collect();
            Arc::new(Detector::new(Arc::clone(settings), registry.rounds(spec.key, now), hosts))
        });
        let tables = match &spec.policy.balancer {
            Balancer::ConsistentHash(hash) => Some(Tables::new(hash.table, &levels)),
            _ => None,
        };
        Self {
            key: spec.key.clone(),
            set: Arc::clone(spec.endpoints),
            labels: spec.labels.cloned(),
            policy: Arc::clone(spec.policy),
            locality: spec.locality().cloned(),
            outlook,
            choice: Policy::of(&spec.policy.balancer, spec.lb),
            whole: View::whole(&levels),
            current: ArcSwapOption::empty(),
            levels,
            detector,
            tables,
            cursor: registry.cursor(spec.key, now),
            strangers: Mutex::default(),
        }
    }

    /// The workload behind an endpoint, where the configuration knows it.
    pub fn workload(&self, addr: EndpointAddr) -> Option<&Arc<Workload>> {
        self.set.endpoints.iter().find(|endpoint| endpoint.addr == addr)?.workload.as_ref()
    }

    pub fn key(&self) -> &ClusterKey {
        &self.key
    }

    pub fn policy(&self) -> &Arc<TrafficPolicy> {
        &self.policy
    }

    /// How endpoints are chosen.
    pub fn choice(&self) -> Policy {
        self.choice
    }

    /// Every endpoint that may ever be chosen, with its priority, closest first.
    pub fn endpoints(&self) -> impl Iterator<Item = (u8, &Arc<EndpointState>)> {
        self.levels.iter().flat_map(|level| level.hosts.states.iter().map(|state| (level.priority, state)))
    }

    /// Whether the cluster is what the spec describes. Cheap: for once per request and snapshot.
    pub fn is_of(&self, spec: &Spec<'_>) -> bool {
        Arc::ptr_eq(&self.set, spec.endpoints)
            && self.choice == Policy::of(&spec.policy.balancer, spec.lb)
            && (Arc::ptr_eq(&self.policy, spec.policy) || self.policy == *spec.policy)
            && self.labels.as_ref() == spec.labels
            && self.locality.as_ref() == spec.locality()
            && self.key == *spec.key
            && self.outlook == Outlook::of(spec)
    }

    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Requests in flight at all endpoints.
    pub fn active(&self) -> u64 {
        self.endpoints().map(|(_, state)| u64::from(state.active())).sum()
    }

    /// The endpoint for one attempt.
    ///
    /// Never one in `tried` while there is another; an endpoint whose connections fail is passed over while there is
    /// one that works, be it a farther one.
    ///
    /// # Errors
    /// There is no endpoint, or none that is not ejected.
    pub fn pick(&self, ask: &Ask<'_>, rng: &mut Rng) -> Result<Chosen, NoEndpoint> {
        if let (Policy::Passthrough, Some(addr)) = (self.choice, ask.original) {
            return Ok(self.chosen(&self.stranger(addr, ask.now), 0));
        }
        if self.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        let untried = |state: &EndpointState| !ask.tried.contains(&state.addr);
        let good = |state: &EndpointState| untried(state) && !state.is_avoided(ask.now);
        self.with_view(ask.now, |view| {
            let hash = self.tables.as_ref().map(|tables| (tables, ask.hash.unwrap_or_else(|| rng.u64(..))));
            let ticket = |n| hash.as_ref().map_or_else(|| rng.u64(..n), |(_, hash)| hash % n);
            let level = view.level(ask.exclude, ticket).ok_or(NoEndpoint::Ejected)?;
            let found = match hash {
                Some((tables, hash)) => {
                    let panic = view.panic.get(level).copied().unwrap_or(false);
                    let may = |state: &EndpointState| (panic || !state.is_ejected()) && good(state);
                    tables.find(&self.levels, level, hash, may).map(|state| (level, state))
                }
                None => None,
            };
            let (level, state) = match found {
                Some(found) => found,
                None => {
                    let preferred = self.preferred(view, level, ask, rng).ok_or(NoEndpoint::Ejected)?;
                    let found = view.search(level, preferred, good).or_else(|| view.search(level, preferred, untried));
                    found.or_else(|| view.search(level, preferred, |_| true)).ok_or(NoEndpoint::Ejected)?
                }
            };
            Ok(self.chosen(state, self.levels.get(level).map_or(0, |level| level.priority)))
        })
    }

    /// Whether [`Self::pick`] would find any endpoint now; changes nothing.
    ///
    /// # Errors
    /// As `pick`'s.
    pub fn usable(&self, now: Nanos) -> Result<(), NoEndpoint> {
        if self.choice == Policy::Passthrough {
            return Ok(());
        }
        if self.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        let first = |view: &View| view.level(Priorities::default(), |_| 0).map(drop);
        self.with_view(now, first).ok_or(NoEndpoint::Ejected)
    }

    /// Whether another endpoint than `chosen`, not in `tried` and not passed over, could be asked.
    pub fn has_other(&self, chosen: EndpointAddr, tried: &[EndpointAddr], now: Nanos) -> bool {
        let other = |state: &EndpointState| state.addr != chosen && !tried.contains(&state.addr);
        self.endpoints().any(|(_, state)| other(state) && !state.is_avoided(now) && !state.is_ejected())
    }

    fn preferred(&self, view: &View, level: usize, ask: &Ask<'_>, rng: &mut Rng) -> Option<usize> {
        // A second attempt takes no turn: with two endpoints each call would begin at the same one.
        let turn = || {
            if ask.tried.is_empty() { self.cursor.fetch_add(1, Relaxed) } else { self.cursor.load(Relaxed) }
        };
        let warmup = self.policy.warmup.as_ref().filter(|_| self.choice.warms());
        let dice = Dice { policy: self.choice, turn: &turn, warmup, now: ask.now };
        view.levels.get(level)?.hosts.choose(&dice, rng)
    }

    fn chosen(&self, state: &Arc<EndpointState>, priority: u8) -> Chosen {
        Chosen { state: Arc::clone(state), priority, detector: self.detector.clone() }
    }

    /// Makes up for outlier detection's rounds that are due.
    pub(super) fn tick(&self, now: Nanos) {
        if let Some(detector) = &self.detector {
            detector.tick(now);
        }
    }

    /// What may be chosen now. Made anew by the first who asks after an ejection or a return.
    fn with_view<R>(&self, now: Nanos, read: impl FnOnce(&View) -> R) -> R {
        let Some(detector) = &self.detector else { return read(&self.whole) };
        detector.tick(now);
        // Read before the states: a view is never newer than it says.
        let version = detector.version();
        if version == 0 {
            return read(&self.whole);
        }
        match &*self.current.load() {
            Some(view) if view.version == version => read(view),
            _ => {
                let threshold = self.policy.outlier.as_ref().map_or(0, |outlier| outlier.min_health_percent);
                let view = Arc::new(View::new(&self.levels, threshold, version));
                self.current.store(Some(Arc::clone(&view)));
                read(&view)
            }
        }
    }

    fn stranger(&self, addr: EndpointAddr, now: Nanos) -> Arc<EndpointState> {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = strangers.get(&addr).and_then(Weak::upgrade) {
            return state;
        }
        if strangers.len() >= strangers.capacity() {
            strangers.retain(|_, state| state.strong_count() > 0);
        }
        let state = Arc::new(EndpointState::new(self.key.clone(), addr, None, now));
        strangers.insert(addr, Arc::downgrade(&state));
        state
    }

    /// Where the tables take long to make, they are made beside the path, and those of `former` serve meanwhile.
    pub(super) fn prepare(self: &Arc<Self>, former: Option<Arc<Self>>) {
        let Some(tables) = &self.tables else { return };
        if tables.are_cheap() {
            return tables.fill(&self.levels);
        }
        tables.borrow_from(former.filter(|former| former.tables.as_ref().is_some_and(Tables::are_ready)));
        let own = Arc::clone(self);
        let beside = std::thread::Builder::new().name("hash-table".into());
        let made = beside.spawn(move || own.tables.iter().for_each(|tables| tables.fill(&own.levels)));
        if made.is_err() {
            tables.fill(&self.levels);
        }
    }

    /// Whether it chooses by the same rules for the same client: only the endpoints may differ.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.outlook == other.outlook
            && self.locality == other.locality
            && self.policy.balancer == other.policy.balancer
    }

    /// What its tables would choose, for the cluster that follows it.
    pub(super) fn by_table(&self, hash: u64) -> Option<EndpointAddr> {
        let tables = self.tables.as_ref()?;
        Some(tables.find(&self.levels, 0, hash, |_| true)?.addr)
    }
}

/// Ready endpoints of the subset, or the draining ones where none is ready.
fn usable<'a>(spec: &Spec<'a>) -> Vec<&'a Endpoint> {
    let of = |health: EndpointHealth| -> Vec<_> {
        let all = spec.endpoints.endpoints.iter().filter(|e| e.health == health);
        all.filter(|e| spec.labels.is_none_or(|labels| e.bears(labels))).collect()
    };
    let ready = of(EndpointHealth::Ready);
    if ready.is_empty() { of(EndpointHealth::Draining) } else { ready }
}

/// Takes out a pod's IPv6 endpoint where its IPv4 one is there too, and returns it by the latter: one pod is one endpoint
/// (in Istio a host with an additional address), or ejections would count it twice.
fn paired(members: &mut Vec<&Endpoint>) -> FxHashMap<EndpointAddr, EndpointAddr> {
    let mut others = FxHashMap::default();
    if members.iter().all(|e| e.addr.ip().is_ipv4()) {
        return others;
    }
    let of = |e: &&Endpoint| Some((e.workload.as_ref()?.key.clone(), e.addr.port()));
    let first = members.iter().filter(|e| e.addr.ip().is_ipv4()).filter_map(|e| Some((of(e)?, e.addr)));
    let mut first: FxHashMap<_, _> = first.collect();
    members.retain(|e| {
        let pair = if e.addr.ip().is_ipv4() { None } else { of(e).and_then(|pod| first.remove(&pod)) };
        if let Some(first) = pair {
            others.insert(first, e.addr);
        }
        pair.is_none()
    });
    others
}

#[cfg(test)]
#[path = "tests/cluster.rs"]
mod tests;
