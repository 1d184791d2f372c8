//! The one source of objects this agent has.

use super::{ConfigFrom, Options};
use crate::admin::view;
use crate::config::ObjectKey;
use crate::config::source::{FileSource, KubeOptions, KubeSource, Scan, Watch};
use anyhow::{Context, Result};
use std::collections::BTreeSet;

/// Name of the file in the run directory that keeps a cluster's last good objects.
pub(super) const JOURNAL: &str = "cluster.jsonl";

/// Runs until it is dropped.
pub(super) enum Source {
    Files { _watch: Watch },
    Cluster { source: KubeSource, secrets: BTreeSet<ObjectKey> },
}

impl Source {
    /// Calls `found` with everything first, then with what changes.
    ///
    /// # Errors
    /// When the thread cannot be started, or no API server is configured.
    pub(super) fn start(options: &Options, found: impl Fn(Scan) + Send + 'static) -> Result<Self> {
        Ok(match &options.config {
            ConfigFrom::Files(paths) => {
                let watch = FileSource::new(paths.clone()).watch(found).context("thread that watches --config")?;
                Self::Files { _watch: watch }
            }
            ConfigFrom::Cluster(kubeconfig) => {
                let options = KubeOptions {
                    kubeconfig: kubeconfig.clone(),
                    node: options.node.clone(),
                    journal: options.run_dir.join(JOURNAL),
                };
                let source = KubeSource::start(options, found).context("--kube")?;
                Self::Cluster { source, secrets: BTreeSet::new() }
            }
        })
    }

    /// Tells a cluster's source which Secrets Gateways name now; files have them all.
    pub(super) fn want_secrets<'a>(&mut self, wanted: impl Iterator<Item = &'a ObjectKey>) {
        if let Self::Cluster { source, secrets } = self {
            let wanted: BTreeSet<ObjectKey> = wanted.cloned().collect();
            if *secrets != wanted {
                source.want_secrets(wanted.clone());
                *secrets = wanted;
            }
        }
    }

    pub(super) fn view(&self) -> Option<view::Cluster> {
        let Self::Cluster { source, .. } = self else { return None };
        let health = source.health();
        let state = match (&health.away, health.complete, health.from_disk) {
            (_, _, true) => "last-known",
            (_, false, false) => "waiting",
            (Some(_), true, false) => "away",
            (None, true, false) => "in-sync",
        };
        let (away_seconds, reason) = health.away.map(|(since, why)| (since.elapsed().as_secs(), why)).unzip();
        Some(view::Cluster {
            server: health.server,
            state: state.into(),
            away_seconds,
            reason: reason.unwrap_or_default(),
            resource_version: health.version,
            objects: format!("{:016x}", health.objects),
        })
    }
}
