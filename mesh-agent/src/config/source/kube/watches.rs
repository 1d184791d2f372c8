//! One task for each watch; all speak into one channel.

use super::store::{Heard, Scope};
use crate::config::resource::Kind;
use futures_util::StreamExt;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::{ApiResource, DynamicResourceScope};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A watch is asked for anew after this long: what a dead connection hides comes to light.
const WATCH: u32 = 60;

/// What the watches tell.
#[derive(Debug)]
pub(super) enum News {
    Heard(Scope, Heard),
    /// Why a watch fails; it goes on trying.
    Failed(Scope, watcher::Error),
    /// A CustomResourceDefinition of this name came, changed or went.
    Definition(String),
    /// The kinds that are served beside those of every cluster.
    Served(BTreeMap<Kind, ApiResource>),
    Unreachable(String),
    Reachable,
}

/// The watches under way; dropping them ends them.
pub(super) struct Watches {
    client: Client,
    news: mpsc::Sender<News>,
    tasks: HashMap<Scope, (ApiResource, JoinHandle<()>)>,
    definitions: JoinHandle<()>,
}

impl Watches {
    pub(super) fn new(client: Client, news: mpsc::Sender<News>) -> Self {
        let definitions = tokio::spawn(definitions(client.clone(), news.clone()));
        Self { client, news, tasks: HashMap::new(), definitions }
    }

    /// Watches what `scope` says, as `resource`; a watch of it in another version ends.
    pub(super) fn start(&mut self, scope: &Scope, resource: ApiResource) {
        if self.tasks.get(scope).is_some_and(|(known, _)| *known == resource) {
            return;
        }
        self.stop(scope);
        // Of these the labels are all that matters; a Node's status is large and changes all the time.
        let task = match scope.kind {
            Kind::Node | Kind::Namespace => {
                let api = api::<PartialObjectMeta<DynamicObject>>(&self.client, scope, &resource);
                tokio::spawn(follow(api, scope.clone(), resource.clone(), self.news.clone()))
            }
            _ => {
                let api = api::<DynamicObject>(&self.client, scope, &resource);
                tokio::spawn(follow(api, scope.clone(), resource.clone(), self.news.clone()))
            }
        };
        self.tasks.insert(scope.clone(), (resource, task));
    }

    pub(super) fn stop(&mut self, scope: &Scope) {
        if let Some((_, task)) = self.tasks.remove(scope) {
            task.abort();
        }
    }

    pub(super) fn has(&self, scope: &Scope) -> bool {
        self.tasks.contains_key(scope)
    }

    pub(super) fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.tasks.keys()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
        self.definitions.abort();
    }
}

fn api<K>(client: &Client, scope: &Scope, resource: &ApiResource) -> Api<K>
where
    K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
{
    match &scope.only {
        Some(only) if !only.namespace.is_empty() => Api::namespaced_with(client.clone(), &only.namespace, resource),
        _ => Api::all_with(client.clone(), resource),
    }
}

/// Until nobody listens any more.
async fn follow<K>(api: Api<K>, scope: Scope, resource: ApiResource, news: mpsc::Sender<News>)
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let mut config = watcher::Config::default().timeout(WATCH);
    if let Some(only) = &scope.only {
        config = config.fields(&format!("metadata.name={}", only.name));
    }
    let mut events = pin!(watch(api, config).backoff(Patience::default()));
    while let Some(event) = events.next().await {
        let news_is = match event.map(|event| heard(event, &resource)) {
            Ok(Some(heard)) => News::Heard(scope.clone(), heard),
            Ok(None) => continue,
            Err(error) => News::Failed(scope.clone(), error),
        };
        if news.send(news_is).await.is_err() {
            return;
        }
    }
}

fn heard<K: Resource + Serialize>(event: Event<K>, resource: &ApiResource) -> Option<Heard> {
    let object = |mut object: K| {
        // They are as long as the rest, and nobody reads them.
        object.meta_mut().managed_fields = None;
        let mut value = serde_json::to_value(object).ok()?;
        let fields = value.as_object_mut()?;
        // Items of a list do not say what they are.
        fields.insert("apiVersion".into(), resource.api_version.as_str().into());
        fields.insert("kind".into(), resource.kind.as_str().into());
        Some(value)
    };
    Some(match event {
        Event::Init => Heard::ListBegins,
        Event::InitApply(of) => Heard::Listed(object(of)?),
        Event::InitDone => Heard::ListEnds,
        Event::Apply(of) => Heard::Put(object(of)?),
        Event::Delete(of) => Heard::Gone(object(of)?),
    })
}

async fn definitions(client: Client, news: mpsc::Sender<News>) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &super::discover::definitions());
    let mut events = pin!(watch(api, watcher::Config::default().timeout(WATCH)).backoff(Patience::default()));
    while let Some(event) = events.next().await {
        let name = match event {
            Ok(Event::InitApply(of) | Event::Apply(of) | Event::Delete(of)) => of.name_any(),
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(%error, "CustomResourceDefinitions cannot be watched");
                continue;
            }
        };
        if super::discover::concerns(&name) && news.send(News::Definition(name)).await.is_err() {
            return;
        }
    }
}

/// 0.2 s, doubling to 5 s, each a quarter more or less, so that a cluster's agents do not come back all at once.
#[derive(Debug, Default)]
struct Patience {
    tries: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let full = Duration::from_millis(200).saturating_mul(1 << self.tries.min(5)).min(Duration::from_secs(5));
        self.tries = self.tries.saturating_add(1);
        Some(full.mul_f64(0.75 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.tries = 0;
    }
}
