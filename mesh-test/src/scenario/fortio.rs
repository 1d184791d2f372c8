//! fortio, from `cargo xtask peers`: the load that workshops send, and a count that is not ours.

use super::stage::{Stage, peer};
use crate::lab::Pod;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    /// Status (or -1: no answer) to count.
    ret_codes: BTreeMap<String, u64>,
}

/// `fortio load -c CALLERS -qps 0 -n REQUESTS URL` in a pod: how many of each status.
pub(super) fn load(stage: &Stage, from: &Pod, url: &str, callers: u64, requests: u64) -> Result<BTreeMap<String, u64>> {
    let fortio = peer("fortio", "go")?;
    let report = stage.lab.layout().logs().join("fortio.json");
    let (callers, requests) = (callers.to_string(), requests.to_string());
    let path = report.display().to_string();
    let args = ["load", "-c", &callers, "-qps", "0", "-n", &requests, "-allow-initial-errors", "-json", &path, url];
    let output = from.run(&fortio, &args, Duration::from_secs(60))?;
    ensure!(output.status.success(), "fortio: {}", output.text);
    let text = std::fs::read_to_string(&report).with_context(|| format!("no report of fortio's: {}", output.text))?;
    let report: Report = serde_json::from_str(&text).context("fortio's report")?;
    Ok(report.ret_codes)
}
