//! Pods that wait for their start (`crate::cni`), and those that began without us.

use super::parts::Captured;
use super::pods::Pods;
use super::{CniOptions, ConfigFrom, FailurePolicy, Options};
use crate::admin::view;
use crate::cni::{self, ANSWER, Chain, PATIENCE, Request, Standing};
use crate::snapshot::{Enrolment, Snapshot, WorkloadKey};
use crate::status;
use anyhow::{Context, Result};
use mesh_cni::call::{self, Settings};
use mesh_cni::note::{self, Note};
use mesh_cni::wire::{self, Answer, Ask, Attachment};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// Questions that wait for the control loop; a node starts fewer pods at a time.
const QUEUE: usize = 256;
/// A note about a pod that no API server knows is kept so long.
const STALE: Duration = Duration::from_secs(600);
/// An Event that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Where a cluster's own pods are: without them no agent would come.
const SYSTEM: &str = "kube-system";

/// Nothing of it is there unless pods are captured and `--cni-conf-dir` is given.
#[derive(Default)]
pub(super) struct Joins {
    requests: Option<mpsc::Receiver<Request>>,
    waiting: Vec<Waiting>,
    chain: Option<Chain>,
    standing: Option<watch::Receiver<Standing>>,
    tasks: Vec<JoinHandle<()>>,
    run_dir: PathBuf,
    /// Where Events are written, and in which agent's name.
    writer: Option<(Option<PathBuf>, String)>,
    /// By container: Events on their way.
    telling: HashMap<String, JoinHandle<()>>,
}

struct Waiting {
    key: WorkloadKey,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Joins {
    /// # Errors
    /// When the socket cannot be made, or this program's own folder is not known.
    pub(super) fn start(options: &Options) -> Result<Self> {
        let (Some(cni), Some(kernel)) = (&options.cni, &options.kernel) else { return Ok(Self::default()) };
        let socket = cni::bind(&options.run_dir).context("the CNI plugin's socket")?;
        let (control, requests) = mpsc::channel(QUEUE);
        let chain = chain(options, cni, kernel.failure_policy)?;
        let writer = match &options.config {
            ConfigFrom::Cluster(kubeconfig) => Some((kubeconfig.clone(), options.node.clone())),
            ConfigFrom::Files(_) => None,
        };
        let (kept, standing) = cni::keep(chain.clone());
        Ok(Self {
            requests: Some(requests),
            tasks: vec![tokio::spawn(cni::serve(socket, control)), kept],
            chain: Some(chain),
            standing: Some(standing),
            run_dir: options.run_dir.clone(),
            writer,
            ..Self::default()
        })
    }

    /// For `status`; `None`: nothing is to be chained.
    pub(super) fn chained(&self) -> Option<view::Chain> {
        Some(match &*self.standing.as_ref()?.borrow() {
            Ok(file) => view::Chain { file: Some(file.clone()), reason: String::new() },
            Err(why) => view::Chain { file: None, reason: why.clone() },
        })
    }

    /// A question; `None`: somebody has waited long enough.
    pub(super) async fn next(&mut self) -> Option<Request> {
        let Some(requests) = &mut self.requests else { return std::future::pending().await };
        let due = self.waiting.iter().map(|waiting| waiting.until).min();
        let late = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(request) = requests.recv() => Some(request),
            () = late => None,
        }
    }

    /// Does what is asked as far as it can be done now; the answer comes with [`Joins::settle`].
    pub(super) async fn hear(&mut self, request: Request, pods: &mut Pods, snapshot: &Snapshot, parts: &mut Captured) {
        let Request { ask, netns, reply } = request;
        let key = key(ask.attachment());
        match (&ask, netns) {
            (Ask::Leave(of), _) => {
                parts.forget(&of.container);
                let _ = reply.send(Answer::Outside("its sandbox goes".into()));
                return;
            }
            (Ask::Join(of), Some(netns)) => match parts.remember(&key.uid, &of.container, netns).await {
                Ok(netns) => {
                    pods.moved(&key, &netns, parts);
                    pods.enrol(snapshot, parts).await;
                }
                Err(error) => {
                    tracing::warn!(pod = %key, %error, "a new pod's network namespace cannot be used");
                    let _ = reply.send(Answer::Late(error.to_string()));
                    return;
                }
            },
            (Ask::Join(_), None) => {
                let _ = reply.send(Answer::Late("its network namespace did not come along".into()));
                return;
            }
            (Ask::Check(_), _) => {}
        }
        self.waiting.push(Waiting { key, until: Instant::now() + ANSWER, reply });
    }

    /// Answers those about whom everything is known, and those who have waited long enough.
    /// Before it has `begun` the kernel does not believe in this agent: nobody is in.
    pub(super) fn settle(&mut self, begun: bool, snapshot: &Snapshot, pods: &Pods, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = match begun {
                true => standing(&waiting.key, snapshot, pods),
                false => Answer::Late("the agent of this node is starting".into()),
            };
            match answer {
                Answer::Late(_) if waiting.until > now => self.waiting.push(waiting),
                answer => {
                    if let Answer::Late(why) = &answer {
                        tracing::warn!(pod = %waiting.key, why, "a new pod is not in the mesh in time");
                    }
                    // A runtime that gave up does not want its answer.
                    let _ = waiting.reply.send(answer);
                }
            }
        }
    }

    /// Tells pods that began without an agent, when they are in.
    pub(super) fn look_back(&mut self, snapshot: &Snapshot, pods: &Pods) {
        if self.requests.is_none() {
            return;
        }
        self.telling.retain(|_, task| !task.is_finished());
        for note in note::all(&self.run_dir) {
            let key = key(&note.of);
            let age =
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(note.began);
            let known = snapshot.workload(&key).is_some();
            match standing(&key, snapshot, pods) {
                Answer::In => self.tell(note),
                Answer::Late(_) if known || age < STALE.as_secs() => {}
                Answer::Outside(_) | Answer::Late(_) => drop(note::forget(&self.run_dir, &note.of.container)),
            }
        }
    }

    fn tell(&mut self, note: Note) {
        let container = note.of.container.clone();
        if self.telling.contains_key(&container) {
            return;
        }
        tracing::warn!(pod = %key(&note.of), why = note.why, "the pod began outside the mesh, and is in it now");
        let (run_dir, writer) = (self.run_dir.clone(), self.writer.clone());
        let task = tokio::spawn(async move {
            if let Some((kubeconfig, node)) = writer
                && let Err(error) = status::began_outside(kubeconfig, &node, &note).await
            {
                tracing::debug!(%error, "no Event yet about a pod that began outside");
                tokio::time::sleep(AGAIN).await;
                return;
            }
            let _ = note::forget(&run_dir, &note.of.container);
        });
        self.telling.insert(container, task);
    }

    /// Whoever waits asks the successor.
    pub(super) fn close(&mut self) {
        if self.requests.take().is_some() {
            let _ = std::fs::remove_file(self.run_dir.join(wire::SOCKET));
        }
        self.tasks.drain(..).for_each(|task| task.abort());
        self.waiting.clear();
    }

    /// Takes the plugin out of the chain and its program and notes away.
    pub(super) fn remove(&mut self) {
        let Some(chain) = &self.chain else { return };
        match chain.remove() {
            Ok(()) => tracing::info!("the CNI plugin is out of the chain"),
            Err(error) => tracing::error!(%error, "the CNI plugin cannot be taken out of the chain"),
        }
        let _ = std::fs::remove_dir_all(self.run_dir.join(note::FOLDER));
    }
}

fn key(of: &Attachment) -> WorkloadKey {
    WorkloadKey { namespace: of.namespace.as_str().into(), name: of.name.as_str().into(), uid: of.uid.as_str().into() }
}

/// Late: it may yet be in.
fn standing(key: &WorkloadKey, snapshot: &Snapshot, pods: &Pods) -> Answer {
    let Some(workload) = snapshot.workload(key) else {
        return Answer::Late("the API server has not told this node's agent of the pod".into());
    };
    match &workload.enrolment {
        Enrolment::Enrolled { .. } => pods.trouble(key).map_or(Answer::In, Answer::Late),
        Enrolment::Elsewhere => Answer::Outside("it is another node's".into()),
        Enrolment::Outside { reason } => Answer::Outside(reason.to_string()),
    }
}

fn chain(options: &Options, cni: &CniOptions, policy: FailurePolicy) -> Result<Chain> {
    let own = std::env::current_exe().context("this program's folder, where the CNI plugin is")?;
    let mut exempt = vec![SYSTEM.to_owned()];
    exempt.extend(options.owner.as_ref().map(|owner| owner.namespace.clone()).filter(|own| own != SYSTEM));
    Ok(Chain {
        conf_dir: cni.conf_dir.clone(),
        bin_dir: cni.bin_dir.clone(),
        program: own.with_file_name("mesh-cni"),
        settings: Settings {
            run_dir: options.run_dir.clone(),
            failure_policy: match policy {
                FailurePolicy::Open => call::FailurePolicy::Open,
                FailurePolicy::Closed => call::FailurePolicy::Closed,
            },
            exempt,
            timeout_seconds: PATIENCE.as_secs(),
        },
    })
}
