//! What the cluster is told: conditions on objects of the Gateway API, Events on objects with errors.
//!
//! ```text
//! Lease ─► leading? ─► the control loop judges (config/compile/status) ─► Facts ─► conditions, Events
//! ```
//! Place: beside the data path, on the control thread; any agent may be the writer, one is at a time. Invariants: only
//! what differs is written; what others wrote stays; that nothing can be written changes nothing about traffic.

mod conditions;
mod events;
mod lease;
mod pod;

pub use events::Complaint;
pub use pod::began_outside;

use crate::config::compile::ObjectStatus;
use crate::config::resource::{Kind, ObjectKey};
use crate::fleet;
use conditions::merge;
use events::Told;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use lease::Campaign;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Owner of the fields that are set (server-side apply): not the one of `install`, which has other fields.
const MANAGER: &str = "undermesh-status";
/// What could not be written, and Events that wait their turn, are tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// What was written is compared once more: somebody may have removed it.
const RESYNC: Duration = Duration::from_secs(600);

/// Whose name the agent writes in.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub kubeconfig: Option<PathBuf>,
    /// Of the agents: their Lease is there.
    pub namespace: String,
    /// Of this agent, among those of the cluster.
    pub identity: String,
}

/// Everything that the cluster should be told now.
#[derive(Debug, Default)]
pub struct Facts {
    pub statuses: Vec<ObjectStatus>,
    pub complaints: Vec<Complaint>,
}

/// Runs until it is dropped.
pub struct Writer {
    facts: watch::Sender<Arc<Facts>>,
    leading: watch::Receiver<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Writer {
    /// Joins the election. Call it on the runtime that shall write.
    ///
    /// # Errors
    /// Without a way to the API server; that it does not answer is none.
    pub async fn start(options: WriterOptions) -> Result<Self, String> {
        let config = fleet::config(options.kubeconfig.as_deref(), None).await?;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        let (facts, heard) = watch::channel(Arc::default());
        let (leads, leading) = watch::channel(false);
        let campaign = Campaign::new(&client, &options.namespace, &options.identity);
        let pen = Pen { client, leading: leading.clone(), written: HashMap::new(), told: Told::new(&options.identity) };
        let tasks = [tokio::spawn(campaign.run(leads)), tokio::spawn(pen.run(heard))];
        Ok(Self { facts, leading, tasks })
    }

    pub fn is_leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// Waits until this agent begins or ceases to be the writer.
    pub async fn turn(&mut self) {
        if self.leading.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// From now on these are the facts.
    pub fn tell(&self, facts: Facts) {
        self.facts.send_replace(Arc::new(facts));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Pen {
    client: Client,
    leading: watch::Receiver<bool>,
    /// What each object was last seen to say, or made to.
    written: HashMap<ObjectKey, ObjectStatus>,
    told: Told,
}

impl Pen {
    async fn run(mut self, mut facts: watch::Receiver<Arc<Facts>>) {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = facts.changed() => if changed.is_err() { return },
                _ = again.tick() => {}
                _ = resync.tick() => self.written.clear(),
            }
            let now = Arc::clone(&facts.borrow_and_update());
            if *self.leading.borrow() {
                self.conditions(&now.statuses).await;
                self.told.tell(&self.client, &now.complaints, &self.leading).await;
            } else {
                // The next writer may say something else meanwhile.
                self.written.clear();
            }
        }
    }

    async fn conditions(&mut self, statuses: &[ObjectStatus]) {
        self.written.retain(|key, _| statuses.iter().any(|wanted| wanted.key == *key));
        for wanted in statuses {
            if !*self.leading.borrow() {
                return;
            }
            if self.written.get(&wanted.key) == Some(wanted) {
                continue;
            }
            match put(&self.client, wanted).await {
                Ok(wrote) => {
                    if wrote {
                        tracing::info!(object = %wanted.key, "status written");
                    }
                    self.written.insert(wanted.key.clone(), wanted.clone());
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    tracing::debug!(object = %wanted.key, "somebody else wrote its status meanwhile: trying again");
                }
                Err(error) => tracing::warn!(object = %wanted.key, %error, "its status cannot be written"),
            }
        }
    }
}

/// Compares with what is there, and writes what differs. False: nothing did, or the object has gone.
async fn put(client: &Client, wanted: &ObjectStatus) -> kube::Result<bool> {
    let Some((api, resource)) = api(client, &wanted.key) else { return Ok(false) };
    let Some(live) = api.get_opt(&wanted.key.name).await? else { return Ok(false) };
    if live.uid().as_deref() != Some(&*wanted.uid) {
        return Ok(false);
    }
    let Some(status) = merge(&live.data["status"], &wanted.status, &Timestamp::now().to_string()) else {
        return Ok(false);
    };
    let mut metadata = json!({"name": wanted.key.name});
    if let Some(namespace) = live.namespace() {
        metadata["namespace"] = namespace.into();
    }
    // A route's parents are one list of all controllers (`x-kubernetes-list-type: atomic`): nobody's may be lost.
    metadata["resourceVersion"] = live.resource_version().map_or(Value::Null, Value::from);
    let object = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": status,
    });
    let done = api.patch_status(&wanted.key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    done.map(|_| true)
}

fn api(client: &Client, key: &ObjectKey) -> Option<(Api<DynamicObject>, ApiResource)> {
    let (group, version) = key.kind.versions().first()?.split_once('/')?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, key.kind.api_name()));
    let api = match key.kind {
        Kind::GatewayClass => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), &key.namespace, &resource),
    };
    Some((api, resource))
}
