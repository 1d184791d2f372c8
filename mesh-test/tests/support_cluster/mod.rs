//! A real Kubernetes: the one of `KUBECONFIG`, on whose nodes both images of `cargo xtask image --fast --apps` are, or the
//! two nodes that `cargo xtask test --layer cluster` brings up on this machine with the script `UNDERMESH_KUBE_RIG`.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part")]

mod http;
mod load;
mod rig;

pub use http::{ApiProxy, ask as admin};
pub use load::LoadPod;
pub use rig::{Counts, Rig};

use mesh_test::apps::fetch::Reply;
use mesh_test::apps::load::report::Report;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// The apps of the lab, as deploy/examples/pingpong.yaml names them.
pub const APPS: &str = "undermesh/pingpong:dev";

/// The agents' namespace and label.
pub const SYSTEM: &str = "undermesh-system";
const AGENTS: &str = "app.kubernetes.io/name=undermesh";

pub struct Cluster {
    rig: Option<Rig>,
}

impl Cluster {
    /// # Panics
    /// Without a cluster: a test that cannot run fails.
    pub fn of_env() -> Self {
        if std::env::var_os("KUBECONFIG").is_some() {
            return Self { rig: None };
        }
        Self { rig: Some(Rig::of_env()) }
    }

    /// With the agents installed and ready, and the Gateway API's and Istio's kinds.
    pub fn with_agents() -> Self {
        let cluster = Self::of_env();
        let installed = cluster.mesh_agent(&["install", "--crds"]);
        assert!(installed.contains("ready after"), "{installed}");
        cluster
    }

    /// The nodes as machines; none on a cluster that is not ours.
    pub fn rig(&self) -> Option<&Rig> {
        self.rig.as_ref()
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = match &self.rig {
            Some(rig) => rig.command(&["kubectl"]),
            None => Command::new("kubectl"),
        };
        command.args(args);
        command
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        run(&mut self.kubectl_command(args))
    }

    pub fn apply(&self, manifest: &str) {
        let mut command = self.kubectl_command(&["apply", "--server-side", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{manifest}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn get(&self, args: &[&str]) -> Value {
        let text = self.kubectl(&[&["get"], args, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("kubectl's JSON")
    }

    /// A list's items.
    pub fn items(&self, args: &[&str]) -> Vec<Value> {
        self.get(args)["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn rolled_out(&self, namespace: &str, what: &str) {
        self.kubectl(&["-n", namespace, "rollout", "status", what, "--timeout=180s"]);
    }

    /// `mesh-agent ARGS` as on a laptop with this cluster's kubeconfig.
    pub fn mesh_agent(&self, args: &[&str]) -> String {
        run(&mut self.mesh_agent_command(args))
    }

    pub fn mesh_agent_command(&self, args: &[&str]) -> Command {
        let agent = root().join("target/image/mesh-agent");
        let mut command = match &self.rig {
            // The rig's API server is reached from its own network only.
            Some(rig) => {
                let mut command = rig.command(&["exec", "sw"]);
                command.arg(agent).env("KUBECONFIG", rig.kubeconfig());
                command
            }
            None => Command::new(agent),
        };
        command.args(args);
        command
    }

    /// Names of the agents' pods.
    pub fn agents(&self) -> Vec<String> {
        let pods = self.items(&["pods", "-n", SYSTEM, "-l", AGENTS]);
        pods.iter().map(|pod| text(&pod["metadata"]["name"])).collect()
    }

    /// The name of a node's agent's pod.
    pub fn agent_of(&self, node: &str) -> String {
        let field = format!("spec.nodeName={node}");
        let pods = self.items(&["pods", "-n", SYSTEM, "-l", AGENTS, "--field-selector", &field]);
        text(&pods.first().expect("an agent")["metadata"]["name"])
    }

    /// What each node's agent says, by `mesh-agent ARGS` in its pod.
    pub fn ask(&self, args: &[&str]) -> Vec<Value> {
        let ask = |name: &String| {
            let exec = ["exec", "-n", SYSTEM, name, "--", "/usr/bin/mesh-agent", "-o", "json"];
            serde_json::from_str(&self.kubectl(&[&exec, args].concat())).expect("an answer in JSON")
        };
        self.agents().iter().map(ask).collect()
    }

    /// All agents together serve that many pods of a namespace.
    pub fn in_mesh(&self, namespace: &str, wanted: usize) {
        let prefix = format!("{namespace}/");
        eventually("pods in the mesh", || {
            let statuses = self.ask(&["status"]);
            let lists = statuses.iter().filter_map(|status| status["pods"]["in_mesh"].as_array());
            let count = lists.flatten().filter(|pod| text(pod).starts_with(&prefix)).count();
            if count == wanted { Ok(()) } else { Err(format!("{count} instead of {wanted}: {statuses:?}")) }
        });
    }

    /// A namespace of the test's own, which a former run may have left.
    pub fn namespace(&self, name: &str) {
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=120s"]);
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string());
        // Its service account comes a moment later, and pods need it.
        eventually("the service account", || {
            let output = self.kubectl_command(&["get", "serviceaccount", "default", "-n", name]).output().unwrap();
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        });
    }

    /// A pod that does nothing until something is executed in it.
    pub fn client(&self, namespace: &str, name: &str) {
        self.apply(&app(namespace, name, &["echo", "--port", "idle:detect:0"]).to_string());
        self.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", &format!("pod/{name}"), "--timeout=120s"]);
    }

    /// Scenario A's app in a namespace of that name, with so many replicas, ready.
    pub fn pingpong(&self, namespace: &str, replicas: usize) {
        let example = std::fs::read_to_string(root().join("deploy/examples/pingpong.yaml")).unwrap();
        let example = example.replace("namespace: pingpong", &format!("namespace: {namespace}"));
        self.apply(&example.replace("name: pingpong\n", &format!("name: {namespace}\n")));
        let replicas = format!("--replicas={replicas}");
        self.kubectl(&["-n", namespace, "scale", "deploy/ws002-pingpong", &replicas]);
        self.rolled_out(namespace, "deploy/ws002-pingpong");
        self.rolled_out(namespace, "deploy/ws001-api");
        // kube-proxy hears of ready pods when everybody does, and writes its rules a moment later.
        eventually("a call without the mesh", || {
            let target = ["--target", "ws002-pingpong:9000", "--count", "1"];
            let one = self.load(namespace, "deploy/ws001-api", &target);
            if one.failed == 0 { Ok(()) } else { Err(format!("{one:?}")) }
        });
    }

    /// `mesh-app load` in a pod.
    pub fn load(&self, namespace: &str, pod: &str, args: &[&str]) -> Report {
        let exec = ["exec", "-n", namespace, pod, "--", "/usr/bin/mesh-app", "load", "--interval-ms", "0"];
        load::total(&self.kubectl(&[&exec, args].concat())).expect("a report")
    }

    /// `mesh-app fetch` in a pod.
    pub fn fetch(&self, namespace: &str, pod: &str, url: &str, args: &[&str]) -> Vec<Reply> {
        let exec = ["exec", "-n", namespace, pod, "--", "/usr/bin/mesh-app", "fetch", url];
        let said = self.kubectl(&[&exec, args].concat());
        said.lines().map(|line| serde_json::from_str(line).expect("a reply")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let show = |args: &[&str]| {
                let output = self.kubectl_command(args).output();
                println!("{}", output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default());
            };
            show(&["get", "pods", "-A", "-o", "wide"]);
            show(&["logs", "-n", SYSTEM, "-l", AGENTS, "--tail=80", "--prefix"]);
        }
    }
}

/// A pod with one of the lab's apps.
pub fn app(namespace: &str, name: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 20,
                 "containers": [{"name": "app", "image": APPS, "args": args}]},
    })
}

/// The bars are proved by the long forms (`--long`); CI has the same tests for a moment.
pub fn is_long() -> bool {
    std::env::var_os("UNDERMESH_CLUSTER_LONG").is_some()
}

/// Prints what was measured beside its bar. A busy machine that only passes by may take four times as long.
pub fn bar(what: &str, took: Duration, bar: Duration) {
    println!("bar: {what}: {took:.1?} (bar {bar:?})");
    let limit = if is_long() { bar } else { bar * 4 };
    assert!(took <= limit, "{what} took {took:?}, at most {limit:?}");
}

/// Asks until the answer is good.
///
/// # Panics
/// After [`LIMIT`], with the last answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(value) => return value,
            Err(why) if began.elapsed() > LIMIT => panic!("{what}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the workspace").to_path_buf()
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}\n{out}\n{err}");
    out.into_owned()
}
