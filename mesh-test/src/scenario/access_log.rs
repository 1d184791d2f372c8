//! The agent's access log as a scenario reads it, switched on as Istio's users do it: in the MeshConfig.

use super::stage::Stage;
use crate::manifest::Manifest;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Lines are on their way for a second at most.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// Istio's JSON lines of all agents.
pub(super) struct AccessLog {
    file: PathBuf,
    /// Lines of former steps.
    seen: usize,
}

impl AccessLog {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let file = stage.lab.layout().logs().join("access.log");
        let mesh = format!("accessLogFile: {}\naccessLogEncoding: JSON\n", file.display());
        let metadata = json!({"name": "istio", "namespace": "istio-system"});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mesh": mesh}});
        let mut manifest = Manifest::default();
        manifest.add(&map.to_string(), "the access log's MeshConfig");
        stage.apply(manifest)?;
        Ok(Self { file, seen: 0 })
    }

    /// The lines since the last call, once there are `count` with this `upstream_cluster`, or no more come in time.
    pub(super) fn next(&mut self, count: u64, upstream_cluster: &str) -> Result<Vec<Value>> {
        let deadline = Instant::now() + WRITTEN_WITHIN;
        loop {
            let text = std::fs::read_to_string(&self.file).with_context(|| format!("no {}", self.file.display()))?;
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines = whole.lines().skip(self.seen).map(serde_json::from_str);
            let lines = lines.collect::<Result<Vec<Value>, _>>().context("a line that is no JSON")?;
            let ours = lines.iter().filter(|line| line["upstream_cluster"] == upstream_cluster).count() as u64;
            if ours >= count || Instant::now() > deadline {
                self.seen += lines.len();
                return Ok(lines.into_iter().filter(|line| line["upstream_cluster"] == upstream_cluster).collect());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
