//! A load that outlives a `kubectl exec`: in a pod of its own, its report read from the pod's log.

use super::{Cluster, app, eventually, is_long};
use mesh_test::apps::load::Line;
use mesh_test::apps::load::report::Report;
use serde_json::Value;
use std::process::Stdio;

/// Running until [`LoadPod::end`].
pub struct LoadPod<'a> {
    cluster: &'a Cluster,
    namespace: String,
    name: String,
}

impl<'a> LoadPod<'a> {
    /// Calls of ws002-pingpong over one connection at a time, an open loop that nothing ends but its pod's end: as many a second as the
    /// bars say in the long form; where CI's machine does other things, fewer, with more time.
    pub fn start(cluster: &'a Cluster, namespace: &str) -> Self {
        Self::with(cluster, namespace, &[])
    }

    /// As `start`, with a new connection every 5 s: after one that was made while its agent was away, and stays direct, comes
    /// one in the mesh. (A restart of who is called would end it too, with calls lost: a server's own GOAWAY refuses what a
    /// client short of CPU has queued, and nobody stands between.)
    pub fn renewing(cluster: &'a Cluster, namespace: &str) -> Self {
        Self::with(cluster, namespace, &["--renew-ms", "5000"])
    }

    fn with(cluster: &'a Cluster, namespace: &str, args: &[&str]) -> Self {
        let name = "load";
        let (rate, timeout) = if is_long() { ("500", "5000") } else { ("100", "20000") };
        let load = ["load", "--target", "ws002-pingpong:9000", "--interval-ms", "1000"];
        let args = [&load[..], &["--rate", rate, "--timeout-ms", timeout], args].concat();
        cluster.apply(&app(namespace, name, &args).to_string());
        let pod = format!("pod/{name}");
        cluster.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", &pod, "--timeout=120s"]);
        eventually("the load's pod is in the mesh", || enrolled(cluster, namespace, name));
        let load = Self { cluster, namespace: namespace.into(), name: name.into() };
        load.joins();
        load
    }

    /// Waits until its connection is one of the mesh.
    pub fn joins(&self) {
        let Self { cluster, namespace, name } = self;
        let mine = format!("{namespace}/{name}");
        eventually("the load's connection is an agent's", || {
            let open = cluster.ask(&["connections"]);
            if open.iter().any(|rows| rows.to_string().contains(&mine)) { Ok(()) } else { Err(format!("{open:?}")) }
        });
    }

    /// Ends it, says what it came to, and holds it against the one bar that all loads have: no failed call.
    pub fn end(self, what: &str) -> Report {
        let report = self.report();
        let Report { ok, failed, elapsed_ms, p50_us, p99_us, max_us, connections_opened, .. } = &report;
        let (took, rate) = (elapsed_ms / 1000, ok * 1000 / elapsed_ms.max(&1));
        println!(
            "{what}: {ok} calls in {took} s ({rate} a second) over {connections_opened} connections, {failed} failed; p50 \
             {p50_us} µs, p99 {p99_us} µs, longest {max_us} µs"
        );
        assert_eq!(*failed, 0, "{:?}", report.errors);
        assert!(rate >= if is_long() { 450 } else { 90 }, "the load kept its rate: {report:?}");
        report
    }

    /// Its log is followed from before its end, because it goes with the pod.
    fn report(self) -> Report {
        let (namespace, name) = (&*self.namespace, &*self.name);
        let mut logs = self.cluster.kubectl_command(&["logs", "-f", "-n", namespace, name]);
        let logs = logs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.cluster.kubectl(&["delete", "pod", "-n", namespace, name, "--timeout=60s"]);
        let output = logs.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        for (second, report) in intervals(&said).enumerate().filter(|(_, report)| report.failed > 0) {
            let Report { failed, connections_opened, errors, .. } = report;
            println!("second {second}, connection {connections_opened}: {failed} failed, {errors:?}");
        }
        total(&said).unwrap_or_else(|| {
            panic!("no report of {name}: {}\n{said}", String::from_utf8_lossy(&output.stderr));
        })
    }
}

fn enrolled(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), String> {
    let pod = Value::from(format!("{namespace}/{name}"));
    let statuses = cluster.ask(&["status"]);
    let mut lists = statuses.iter().filter_map(|status| status["pods"]["in_mesh"].as_array());
    if lists.any(|pods| pods.contains(&pod)) { Ok(()) } else { Err(format!("{statuses:?}")) }
}

/// What `mesh-app load` says of each second.
fn intervals(text: &str) -> impl Iterator<Item = Report> {
    text.lines().filter_map(|line| match serde_json::from_str(line).ok()? {
        Line::Interval { report, .. } => Some(report),
        Line::Total { .. } => None,
    })
}

/// The last line of `mesh-app load`.
pub(super) fn total(text: &str) -> Option<Report> {
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let total = events.rev().find(|event| event["event"] == "total")?;
    serde_json::from_value(total["report"].clone()).ok()
}
