//! Who an app is: what a Kubernetes pod would learn from the downward API, given here as arguments.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;

/// Arguments that every app takes.
#[derive(Debug, Clone, Args)]
pub struct PodArgs {
    /// Name of the pod; the host's name if left out (pods of the lab share it, so the lab gives a name).
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// Namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// A label of the pod, KEY=VALUE; repeat for more.
    #[arg(long = "label", value_parser = key_value)]
    labels: Vec<(String, String)>,
}

/// The pod an app runs as, and how many calls it has served. Clones share the count.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub labels: Arc<BTreeMap<String, String>>,
    calls: Arc<AtomicU64>,
}

impl Pod {
    /// A pod without labels in namespace `default`.
    pub fn named(name: &str) -> Self {
        Self::from(PodArgs { name: Some(name.to_owned()), namespace: "default".to_owned(), labels: Vec::new() })
    }

    /// Counts one call served.
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls served so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl From<PodArgs> for Pod {
    fn from(args: PodArgs) -> Self {
        let name = args.name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        Self {
            name: name.into(),
            namespace: args.namespace.into(),
            labels: Arc::new(args.labels.into_iter().collect()),
            calls: Arc::default(),
        }
    }
}

/// `KEY=VALUE`; a bare `KEY` has an empty value, as in a Kubernetes label.
pub(crate) fn key_value(text: &str) -> Result<(String, String), Infallible> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}
