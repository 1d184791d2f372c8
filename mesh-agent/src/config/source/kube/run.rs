//! The source's thread: watches in, scans out.

use super::discover::{self, discover};
use super::health::Health;
use super::journal::Journal;
use super::store::{Heard, Scope, Store};
use super::watches::{News, Watches};
use super::{KubeOptions, Scan};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, ObjectKey};
use kube::Client;
use kube::core::ApiResource;
use kube::runtime::watcher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, sleep_until};

/// The server has this long to list everything; then what the last run knew is served meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);
/// Changes that come together are put in force together.
const QUIET: Duration = Duration::from_millis(20);
const AT_MOST: Duration = Duration::from_millis(100);
/// How often what changed is written to the disk.
const FLUSH: Duration = Duration::from_secs(1);
/// While the server is away; a watch that has come back is silent until something changes.
const PROBE: Duration = Duration::from_secs(2);
/// A CustomResourceDefinition is served a moment after it can be seen.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(5)];

/// ConfigMap with the MeshConfig.
const MESH_CONFIG: (&str, &str) = ("istio-system", "istio");

pub(super) struct Source {
    client: Client,
    journal: Journal,
    /// Not on disk yet.
    unwritten: Vec<u8>,
    health: Arc<Mutex<Health>>,
    secrets: mpsc::UnboundedReceiver<BTreeSet<ObjectKey>>,
    found: Box<dyn Fn(Scan) + Send>,
    store: Store,
    watches: Watches,
    news: mpsc::Receiver<News>,
    sender: mpsc::Sender<News>,
    /// Asks which kinds are served.
    looks: Option<JoinHandle<()>>,
    /// Which CustomResourceDefinitions' kinds are served; none while that is not known.
    served: Option<BTreeSet<Scope>>,
    failing: BTreeMap<Scope, Failure>,
    published: bool,
    said: Vec<Diagnostic>,
}

struct Failure {
    why: String,
    /// By the server, which will not say otherwise soon (403); else it was not reached.
    refused: bool,
}

impl Source {
    pub(super) fn new(
        client: Client,
        options: &KubeOptions,
        health: Arc<Mutex<Health>>,
        secrets: mpsc::UnboundedReceiver<BTreeSet<ObjectKey>>,
        found: Box<dyn Fn(Scan) + Send>,
    ) -> Self {
        let (sender, news) = mpsc::channel(1024);
        Self {
            watches: Watches::new(client.clone(), sender.clone()),
            client,
            journal: Journal::new(options.journal.clone()),
            unwritten: Vec::new(),
            health,
            secrets,
            found,
            store: Store::new(&options.node),
            news,
            sender,
            looks: None,
            served: None,
            failing: BTreeMap::new(),
            published: false,
            said: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        for scope in core() {
            self.watch(&scope, discover::core(scope.kind));
        }
        self.look();
        let mut probe = interval(PROBE);
        let mut restore = Some(Instant::now() + PATIENCE);
        // When to give what changed: after a moment's quiet, but not later than `latest`. When to write it down.
        let (mut quiet, mut latest, mut flush) = (None, None, None::<Instant>);
        loop {
            let give = [quiet, latest].into_iter().flatten().min();
            tokio::select! {
                Some(news) = self.news.recv() => {
                    self.hear(news);
                    quiet = Some(Instant::now() + QUIET);
                    latest.get_or_insert(Instant::now() + AT_MOST);
                }
                Some(secrets) = self.secrets.recv() => self.want(&secrets),
                () = at(give) => {
                    (quiet, latest) = (None, None);
                    self.give();
                    flush.get_or_insert(Instant::now() + FLUSH);
                }
                () = at(restore) => {
                    restore = None;
                    self.restore();
                    flush.get_or_insert(Instant::now() + FLUSH);
                }
                () = at(flush) => {
                    flush = None;
                    self.write();
                }
                _ = probe.tick() => self.probe(),
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Heard(scope, heard) if self.watches.has(&scope) => {
                // The client says that it begins a list before it has asked for it.
                if !matches!(heard, Heard::ListBegins) {
                    self.failing.remove(&scope);
                    self.lock().answered();
                }
                self.store.hear(&scope, heard);
            }
            News::Heard(..) => {}
            News::Failed(scope, error) => self.failed(scope, &error),
            News::Definition(name) => {
                tracing::debug!(name, "a CustomResourceDefinition came, changed or went");
                self.look();
            }
            News::Served(kinds) => self.serve(kinds),
            News::Unreachable(why) => self.lock().gone(why),
            News::Reachable => {
                self.failing.retain(|_, failure| failure.refused);
                self.lock().answered();
            }
        }
    }

    fn failed(&mut self, scope: Scope, error: &watcher::Error) {
        let refusal = refusal(error);
        // 410: what was seen last is too long ago; the list that follows says everything anew.
        if refusal == Some(410) {
            return tracing::debug!(kind = %scope.kind, "the server has forgotten where we were: listing again");
        }
        let why = chain(error);
        if refusal.is_none() {
            self.lock().gone(why.clone());
        } else if !self.failing.contains_key(&scope) {
            tracing::warn!(kind = %scope.kind, "cannot be watched, trying again: {why}");
        }
        self.failing.insert(scope, Failure { why, refused: refusal.is_some() });
    }

    /// Watches the kinds that are served now, and no others.
    fn serve(&mut self, kinds: BTreeMap<Kind, ApiResource>) {
        self.lock().answered();
        let served: BTreeSet<Scope> = kinds.keys().map(|kind| Scope::all(*kind)).collect();
        for (kind, resource) in kinds {
            self.watch(&Scope::all(kind), Some(resource));
        }
        for gone in self.served.take().unwrap_or_default().difference(&served) {
            tracing::info!(kind = %gone.kind, "is not served any more");
            self.unwatch(gone);
        }
        self.served = Some(served);
    }

    fn want(&mut self, secrets: &BTreeSet<ObjectKey>) {
        let known: Vec<Scope> = self.watches.scopes().filter(|scope| scope.kind == Kind::Secret).cloned().collect();
        for scope in known.iter().filter(|scope| scope.only.as_ref().is_none_or(|only| !secrets.contains(only))) {
            self.unwatch(scope);
        }
        for secret in secrets {
            self.watch(&Scope::one(secret.clone()), discover::core(Kind::Secret));
        }
    }

    fn watch(&mut self, scope: &Scope, resource: Option<ApiResource>) {
        if let Some(resource) = resource {
            self.watches.start(scope, resource);
        }
    }

    fn unwatch(&mut self, scope: &Scope) {
        self.watches.stop(scope);
        self.failing.remove(scope);
        self.store.forget(scope);
    }

    /// Asks which kinds are served, now and a few times more; a look under way ends.
    fn look(&mut self) {
        let (client, news) = (self.client.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            for after in LOOKS {
                sleep(after).await;
                let answer = loop {
                    match discover(&client).await {
                        Ok(kinds) => break News::Served(kinds),
                        Err(error) => drop(news.send(News::Unreachable(chain(&error))).await),
                    }
                    sleep(Duration::from_secs(1)).await;
                };
                if news.send(answer).await.is_err() {
                    return;
                }
            }
        });
        if let Some(former) = self.looks.replace(task) {
            former.abort();
        }
    }

    fn probe(&self) {
        if self.lock().away.is_some() {
            let (client, news) = (self.client.clone(), self.sender.clone());
            tokio::spawn(async move {
                if client.apiserver_version().await.is_ok() {
                    // Nobody to tell: the source has ended.
                    let _ = news.send(News::Reachable).await;
                }
            });
        }
    }

    /// Every list has been complete, or is refused: what is known is what the cluster is.
    fn is_complete(&self) -> bool {
        let settled = |scope: &Scope| {
            self.store.is_complete(scope) || self.failing.get(scope).is_some_and(|failure| failure.refused)
        };
        self.served.as_ref().is_some_and(|served| served.iter().all(settled)) && core().iter().all(settled)
    }

    fn give(&mut self) {
        let complete = self.is_complete();
        if !self.published && !complete {
            return;
        }
        {
            let mut health = self.lock();
            (health.version, health.objects) = self.store.standing();
        }
        if complete {
            let mut health = self.lock();
            (health.complete, health.from_disk) = (true, false);
        }
        let mut batch = self.store.take();
        self.unwritten.append(&mut batch.lines);
        let diagnostics = self.diagnostics();
        if self.published && batch.changes.is_empty() && diagnostics == self.said {
            return;
        }
        self.published = true;
        self.said.clone_from(&diagnostics);
        (self.found)(Scan { changes: batch.changes, diagnostics, again: None });
    }

    /// Takes what the last run left, because the server does not answer in time.
    fn restore(&mut self) {
        if self.published {
            return;
        }
        let (objects, torn) = match self.journal.read() {
            Ok(read) => read,
            Err(error) => return tracing::warn!(%error, "the last good objects cannot be read"),
        };
        if objects.is_empty() {
            return tracing::warn!(
                "the API server has not answered yet, and no last good objects are on disk: waiting"
            );
        }
        tracing::warn!(
            objects = objects.len(),
            torn,
            "the API server has not answered yet: serving what was last known"
        );
        for (key, object) in objects {
            self.store.restore(key, object);
        }
        self.lock().from_disk = true;
        self.published = true;
        self.give();
    }

    fn write(&mut self) {
        let lines = std::mem::take(&mut self.unwritten);
        if let Err(error) = self.journal.append(&lines, self.store.len()) {
            tracing::warn!(%error, "the last good objects cannot be written: a restart needs the API server");
        }
    }

    fn diagnostics(&self) -> Vec<Diagnostic> {
        let refused = self.failing.iter().filter(|(_, failure)| failure.refused).map(|(scope, failure)| {
            let message = format!("{} objects cannot be read from the API server: {}", scope.kind, failure.why);
            Diagnostic::error(Code::Unreadable, message).fix("let the agent's service account get, list and watch them")
        });
        refused.chain(self.store.findings().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every cluster has.
fn core() -> [Scope; 6] {
    let (namespace, name) = MESH_CONFIG;
    [
        Scope::all(Kind::Namespace),
        Scope::all(Kind::Node),
        Scope::all(Kind::Pod),
        Scope::all(Kind::Service),
        Scope::all(Kind::EndpointSlice),
        Scope::one(ObjectKey::new(Kind::ConfigMap, namespace, name)),
    ]
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// The status code, where the server answered at all.
fn refusal(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The error and its causes, each text once: some errors name their cause themselves.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
