//! Objects of a Kubernetes API server: the same as files would give, from watches.
//!
//! ```text
//! watch per kind ─► News ─► Store (diff) ─► Scan ─► compiler
//!                             └► Journal (last good, on disk)
//! ```
//! Place in the path: beside [`FileSource`](super::FileSource); the only user of the Kubernetes client on the data path's
//! side. Invariants: the first scan is complete, or it is the last run's when the server does not answer in time; a
//! server that goes away takes nothing down; one kind that may not be read never keeps the others waiting.

mod discover;
mod health;
mod journal;
mod run;
mod store;
mod trim;
mod watches;

pub use health::Health;

use super::file::Scan;
use crate::config::resource::ObjectKey;
use crate::fleet;
use kube::Client;
use run::Source;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// None: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// This agent's node.
    pub node: String,
    /// Where the last good objects are kept.
    pub journal: PathBuf,
}

/// A running source; dropping it ends its thread.
#[derive(Debug)]
pub struct KubeSource {
    health: Arc<Mutex<Health>>,
    secrets: mpsc::UnboundedSender<BTreeSet<ObjectKey>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("no way to the API server is configured: {0}")]
    Config(String),
    #[error("thread of the Kubernetes source: {0}")]
    Thread(#[from] std::io::Error),
}

impl KubeSource {
    /// Calls `found` from a thread of its own, first with everything, then with what changes.
    ///
    /// # Errors
    /// Without a usable kubeconfig or service account. That the server does not answer is none.
    pub fn start(options: KubeOptions, found: impl Fn(Scan) + Send + 'static) -> Result<Self, KubeError> {
        let (stop, stopped) = oneshot::channel();
        let (secrets, wanted) = mpsc::unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let health = Arc::new(Mutex::new(Health::default()));
        let shared = Arc::clone(&health);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("config-kube".into()).spawn(move || {
            runtime.block_on(async move {
                let client = match connect(&options, &shared).await {
                    Ok(client) => client,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                let source = Source::new(client, &options, shared, wanted, Box::new(found));
                tokio::select! {
                    () = source.run() => {}
                    // An error: the handle was dropped.
                    _ = stopped => {}
                }
            });
        })?;
        is_ready.recv().map_err(|_| KubeError::Config("its thread ended".into()))??;
        Ok(Self { health, secrets, _stop: stop })
    }

    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these Secrets, and no others.
    pub fn want_secrets(&self, secrets: BTreeSet<ObjectKey>) {
        // The thread may be gone already.
        let _ = self.secrets.send(secrets);
    }
}

async fn connect(options: &KubeOptions, health: &Mutex<Health>) -> Result<Client, KubeError> {
    let mut config = fleet::config(options.kubeconfig.as_deref(), None).await.map_err(KubeError::Config)?;
    config.connect_timeout = Some(Duration::from_secs(5));
    health.lock().unwrap_or_else(PoisonError::into_inner).server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|error| KubeError::Config(error.to_string()))
}
