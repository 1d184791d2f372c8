//! The lab under a scenario: applying YAML and waiting until it is in force, asking from a pod, reading the agents'
//! counters.

use super::metrics::Metrics;
use crate::apps::fetch::Reply;
use crate::lab::{Lab, Pod, Process, parse_lines};
use crate::manifest::Manifest;
use crate::prometheus::Prometheus;
use anyhow::{Context, Result, bail, ensure};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Public sample YAML; named by `UNDERMESH_SAMPLES`, else beside the repository.
const SAMPLES: &str = "../../shared/samples";
/// Namespace of the Services that tell a configuration's arrival.
const BEACONS: &str = "beacons";
/// No label puts this namespace into the mesh.
const OUTSIDE: &str = "outside";
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// A lab with an app in the mesh.
pub(super) struct Stage {
    pub(super) lab: Lab,
    /// What steps applied; taken away again before the next one.
    applied: RefCell<Vec<Manifest>>,
    beacons: Cell<u16>,
}

impl Stage {
    pub(super) fn new(lab: Lab) -> Self {
        Self { lab, applied: RefCell::default(), beacons: Cell::new(0) }
    }

    /// A public sample, unchanged.
    pub(super) fn sample(&self, file: &str) -> Result<()> {
        self.file(&samples()?.join(file))
    }

    /// A file of `deploy/examples/scenarios`.
    pub(super) fn ours(&self, file: &str) -> Result<()> {
        self.file(&ours(file))
    }

    /// Applies a file and waits until every agent acts on it.
    pub(super) fn file(&self, file: &Path) -> Result<()> {
        let manifest = Manifest::load(&[file.to_owned()])?;
        self.apply(manifest).with_context(|| format!("applying {}", file.display()))
    }

    pub(super) fn apply(&self, manifest: Manifest) -> Result<()> {
        ensure!(manifest.notes.is_empty(), "{}", manifest.notes.join("; "));
        let known: Vec<_> =
            self.lab.services().into_iter().map(|known| known.service.raw["metadata"].clone()).collect();
        let new = manifest.services.iter().filter(|service| !known.contains(&service.raw["metadata"])).cloned();
        let (other, services) = (manifest.other.clone(), new.collect());
        self.applied.borrow_mut().push(Manifest { other, services, ..Manifest::default() });
        self.lab.apply(manifest)?;
        self.in_force()
    }

    /// What was applied so far belongs to the app and stays.
    pub(super) fn keep(&self) {
        self.applied.borrow_mut().clear();
    }

    /// Takes away what steps applied.
    pub(super) fn reset(&self) -> Result<()> {
        let applied = self.applied.take();
        if applied.is_empty() {
            return Ok(());
        }
        for manifest in &applied {
            self.lab.withdraw(manifest)?;
        }
        self.in_force()
    }

    /// Waits until every agent acts on all that was written so far: a Service written last is in its list.
    pub(super) fn in_force(&self) -> Result<()> {
        self.beacons.set(self.beacons.get() + 1);
        let name = format!("beacon-{}", self.beacons.get());
        self.lab.apply_yaml(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {BEACONS}}}, \
             spec: {{ports: [{{name: http, port: 80}}]}}}}"
        ))?;
        let deadline = Instant::now() + IN_FORCE_WITHIN;
        for agent in self.lab.agents() {
            while !agent.ask(&["services"])?.to_string().contains(&name) {
                ensure!(Instant::now() < deadline, "{} has not read its configuration", agent.node());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Istio's ingress gateway, and the URL of its Service.
    pub(super) fn ingress(&self) -> Result<&'static str> {
        self.file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/ingress-gateway.yaml"))?;
        self.enrol("istio-ingress")?;
        Ok("http://istio-ingressgateway.istio-ingress")
    }

    /// A client outside the mesh.
    pub(super) fn outsider(&self) -> Result<Pod> {
        let mut pods = self.lab.all_pods().into_iter();
        match pods.find(|pod| pod.namespace() == OUTSIDE) {
            Some(pod) => Ok(pod),
            None => self.lab.pod("browser").namespace(OUTSIDE).start(),
        }
    }

    /// What one request to a gateway comes to: the status, and whose it is.
    pub(super) fn answer(&self, from: &Pod, gateway: &str, host: &str, path: &str) -> Result<String> {
        let reply = self.get(from, &format!("{gateway}{path}"), &["--header", &format!("host={host}")])?;
        let by = reply.pod().split('-').next().filter(|name| !name.is_empty()).unwrap_or("the gateway");
        Ok(format!("{} by {by}", said(&reply)))
    }

    /// Puts a namespace into the mesh and waits until all its pods are.
    pub(super) fn enrol(&self, namespace: &str) -> Result<()> {
        self.lab.label_namespace(namespace, "istio-injection", Some("enabled"))?;
        for pod in self.lab.all_pods().iter().filter(|pod| pod.namespace() == namespace) {
            self.await_enrolled(pod)?;
        }
        self.in_force()
    }

    pub(super) fn await_enrolled(&self, pod: &Pod) -> Result<()> {
        let agent = self.lab.agents().iter().find(|agent| agent.node() == pod.node()).context("a pod without agent")?;
        agent.await_enrolled(pod.namespace(), pod.name(), true)
    }

    /// A client pod in a namespace, in the mesh if the namespace is.
    pub(super) fn client(&self, namespace: &str) -> Result<Pod> {
        let pods = self.lab.all_pods();
        pods.into_iter()
            .find(|pod| pod.namespace() == namespace && pod.name() == "client")
            .with_context(|| format!("no pod client in {namespace}"))
    }

    /// `mesh-app fetch <args>` in a pod, to its end.
    pub(super) fn fetch(&self, from: &Pod, url: &str, args: &[&str]) -> Result<Vec<Reply>> {
        let mut process = self.start_fetch(from, url, args)?;
        process.wait(ANSWERED_WITHIN)?;
        replies(&process)
    }

    pub(super) fn start_fetch(&self, from: &Pod, url: &str, args: &[&str]) -> Result<Process> {
        from.app(&[&["fetch", url], args].concat())
    }

    /// One request.
    pub(super) fn get(&self, from: &Pod, url: &str, args: &[&str]) -> Result<Reply> {
        self.fetch(from, url, args)?.pop().with_context(|| format!("no reply from {url}"))
    }

    /// `n` requests, eight at a time; how many each version answered. What is no 200 counts as its status.
    pub(super) fn versions(&self, from: &Pod, url: &str, n: u64, args: &[&str]) -> Result<BTreeMap<String, u64>> {
        let n = n.to_string();
        let replies = self.fetch(from, url, &[&["--count", &n, "--concurrency", "8"], args].concat())?;
        Ok(count(&replies, |reply| match reply.status {
            200 => version_of(reply.pod()),
            _ => said(reply),
        }))
    }

    /// How many requests a pod of a demo has served, once that number rests.
    pub(super) fn served(&self, from: &Pod, pod: &Pod) -> Result<u64> {
        let port = pod.ports().first().copied().context("a pod without a port")?;
        let url = format!("http://{}:{port}/health", pod.ips().v4);
        let ask = || -> Result<u64> {
            let reply = self.get(from, &url, &[])?;
            let body: serde_json::Value = serde_json::from_str(&reply.body).with_context(|| format!("{reply:?}"))?;
            body["served"].as_u64().with_context(|| format!("no count: {body}"))
        };
        let mut last = ask()?;
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let now = ask()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Errors and warnings of the first agent's configuration (all agents read the same), beacons apart.
    pub(super) fn findings(&self) -> Result<Vec<serde_json::Value>> {
        let rows = self.lab.agent(0).ask(&["analyze", "--fail-on", "never"])?;
        let rows = rows.as_array().context("findings are no list")?.iter().filter(|row| row["severity"] != "info");
        let beacon =
            |row: &serde_json::Value| row["object"].as_str().is_some_and(|o| o.contains(&format!(" {BEACONS}/")));
        Ok(rows.filter(|row| !beacon(row)).cloned().collect())
    }

    /// The same, a line each.
    pub(super) fn diagnostics(&self) -> Result<Vec<String>> {
        let word = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let line = |row| ["code", "object", "field", "message"].map(|key| word(row, key)).join(" ");
        Ok(self.findings()?.iter().map(line).collect())
    }

    /// A Prometheus as users set it up, on the first node.
    pub(super) fn prometheus(&self) -> Result<Prometheus<'_>> {
        Prometheus::start(&self.lab, 0, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus"))
    }

    /// What all agents counted so far.
    pub(super) fn metrics(&self) -> Result<Metrics> {
        let mut sum = Metrics::default();
        for node in 0..self.lab.agents().len() {
            sum.add(&Metrics::scrape(self.lab.node_netns(node))?);
        }
        Ok(sum)
    }

    /// Waits until `so` holds of the counters; they follow the last byte of an answer, not the first.
    pub(super) fn metrics_when(&self, so: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let metrics = self.metrics()?;
            if so(&metrics) || Instant::now() > deadline {
                return Ok(metrics);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The replies that a fetch has printed so far.
pub(super) fn replies(process: &Process) -> Result<Vec<Reply>> {
    let output = process.output();
    let replies = parse_lines::<Reply>(&output);
    if replies.is_empty() {
        bail!("mesh-app fetch printed nothing but: {output}");
    }
    Ok(replies)
}

pub(super) fn count(replies: &[Reply], name: impl Fn(&Reply) -> String) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(name(reply)).or_default() += 1;
    }
    counts
}

/// The status, or why there was none.
pub(super) fn said(reply: &Reply) -> String {
    if reply.status == 0 { reply.error.clone() } else { reply.status.to_string() }
}

/// `v3` of `reviews-v3-1a2b3c4d-x7k2p`: Bookinfo and our Sock Shop name Deployments so; a name without one is itself.
pub(super) fn version_of(pod: &str) -> String {
    let is_version = |part: &&str| part.strip_prefix('v').is_some_and(|n| n.len() == 1 && n.parse::<u8>().is_ok());
    pod.split('-').find(is_version).unwrap_or(pod).to_owned()
}

pub(super) fn samples() -> Result<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLES);
    let dir = std::env::var_os("UNDERMESH_SAMPLES").map_or(beside, PathBuf::from);
    ensure!(dir.is_dir(), "no samples at {}: name their folder with UNDERMESH_SAMPLES", dir.display());
    Ok(dir)
}

/// A program of `cargo xtask peers --only PART`.
pub(super) fn peer(name: &str, part: &str) -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin").join(name);
    ensure!(program.is_file(), "no {name}: run `cargo xtask peers --only {part}`");
    Ok(program)
}

/// A file of `deploy/examples/scenarios`.
pub(super) fn ours(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/scenarios").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_versioned_deployments_tell_their_version() {
        assert_eq!(version_of("reviews-v3-1a2b3c4d-x7k2p"), "v3");
        assert_eq!(version_of("orders-v1-v2abc-x7k2p"), "v1");
        assert_eq!(version_of("client"), "client");
    }
}
