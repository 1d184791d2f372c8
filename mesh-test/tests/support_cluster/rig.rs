//! The nodes of the rig as machines: what no client of an API server may see or do.

use super::{eventually, root, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cluster of this machine, brought up by `cargo xtask test`.
pub struct Rig {
    script: PathBuf,
    /// Where it keeps what it runs.
    folder: Option<PathBuf>,
    kubeconfig: PathBuf,
}

/// Things of an agent that must come back to where they were, by name.
pub type Counts = BTreeMap<String, u64>;

impl Rig {
    /// # Panics
    /// Without a cluster: a test that cannot run fails.
    pub fn of_env() -> Self {
        let script = std::env::var_os("UNDERMESH_KUBE_RIG").map(PathBuf::from);
        let script =
            script.expect("`cargo xtask test --layer cluster` says which cluster: KUBECONFIG or UNDERMESH_KUBE_RIG");
        let env = run(Command::new(&script).arg("env"));
        let value = |name: &str| env.lines().find_map(|line| line.strip_prefix(name)).map(PathBuf::from);
        let kubeconfig = value("KUBECONFIG=").expect("a kubeconfig");
        Self { script, folder: value("KUBE_RIG="), kubeconfig }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The script copies its parts over those that run whenever it is called, and two at a time see halves of them: the
    /// parts that a test needs are called themselves.
    pub fn command(&self, args: &[&str]) -> Command {
        let part = args.split_first().and_then(|(verb, rest)| {
            let name = [("kubectl", "k"), ("exec", "kexec")].iter().find(|(of, _)| of == verb)?.1;
            let part = self.folder.as_ref()?.join(name);
            part.is_file().then_some((part, rest))
        });
        let (program, args) = part.unwrap_or_else(|| (self.script.clone(), args));
        let mut command = Command::new(program);
        command.args(args);
        command
    }

    /// A shell's words in a node's namespaces.
    pub fn on(&self, node: usize, words: &str) -> String {
        run(&mut self.command(&["exec", &node.to_string(), "sh", "-c", words]))
    }

    /// `mesh-agent ARGS` against a node's admin socket; works without an API server.
    pub fn ask(&self, node: usize, args: &str) -> Value {
        let agent = root().join("target/image/mesh-agent");
        let said = self.on(node, &format!("{} -o json {args}", agent.display()));
        serde_json::from_str(&said).expect("an answer in JSON")
    }

    /// What a node's agent says of itself; `None` while there is none.
    pub fn status(&self, node: usize) -> Option<Value> {
        let agent = root().join("target/image/mesh-agent");
        let output = self.command(&["exec", &node.to_string()]).arg(agent).args(["-o", "json", "status"]).output();
        serde_json::from_slice(&output.ok()?.stdout).ok()
    }

    /// Its admin socket, as this machine sees it.
    pub fn admin_socket(&self, node: usize) -> PathBuf {
        let file = format!("{}/node{node}.pid", self.run_dir());
        let first = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        Path::new("/proc").join(first.trim()).join("root/run/undermesh/agent.sock")
    }

    /// The process of a node's agent, in that node's own numbers.
    pub fn agent(&self, node: usize) -> u32 {
        eventually("the agent's process", || {
            let found = self.on(node, "pgrep -f '^/usr/bin/mesh-agent run' || true");
            found.trim().parse().map_err(|_| format!("node {node}: {found:?}"))
        })
    }

    /// What an agent holds: descriptors by kind, entries of each map, pins.
    pub fn counts(&self, node: usize) -> Counts {
        let mut counts = Counts::new();
        let links = self.on(node, &format!("for f in /proc/{}/fd/*; do readlink $f || true; done", self.agent(node)));
        for link in links.lines() {
            // `socket:[81]`, `anon_inode:bpf-map`, `/dev/null`; a namespace is `net:[4026]`, or has the path by which it was opened.
            let kind = match link.split(":[").next().unwrap_or(link) {
                path if path.starts_with("/run/netns/") => "net",
                kind => kind,
            };
            *counts.entry(format!("fd {kind}")).or_default() += 1;
        }
        let kernel = self.ask(node, "kernel");
        for map in kernel["maps"].as_array().into_iter().flatten() {
            let entries = map["entries"].as_u64();
            counts.insert(format!("map {}", super::text(&map["name"])), entries.unwrap_or(0));
        }
        counts.insert("pins".into(), self.pins(node).len() as u64);
        counts
    }

    /// Everything below the agent's folder of bpffs.
    pub fn pins(&self, node: usize) -> Vec<String> {
        let found = self.on(node, "find /sys/fs/bpf/undermesh -mindepth 1 2>/dev/null || true");
        found.lines().map(str::to_owned).collect()
    }

    /// What of the mesh a node has: pins, the agent's files, listeners in pods, processes.
    pub fn traces(&self, node: usize) -> Vec<String> {
        let mut found = self.pins(node);
        let files = self.on(node, "find /run/undermesh -mindepth 1 2>/dev/null || true");
        found.extend(files.lines().map(str::to_owned));
        // 15001 is 3A99; state 0A listens.
        let listeners = "for p in /proc/[0-9]*; do cat $p/net/tcp $p/net/tcp6 2>/dev/null; done | \
                         awk '$2 ~ /:3A99$/ && $4 == \"0A\"' | sort -u";
        found.extend(self.on(node, listeners).lines().map(|line| format!("listener {line}")));
        // Our entry in the network's chain, and our program.
        let chained = "grep -l undermesh -r /etc/cni/net.d || true; find /opt/cni/bin -name '*undermesh*'";
        found.extend(self.on(node, chained).lines().map(|line| format!("CNI {line}")));
        let processes = self.on(node, "pgrep -af '^/usr/bin/mesh-agent run' || true");
        found.extend(processes.lines().map(|line| format!("process {line}")));
        found
    }

    /// Kills the API server, and keeps how it was started; it comes back when this is dropped.
    pub fn stop_api(&self) -> ApiAway<'_> {
        let run = self.run_dir();
        self.on(
            1,
            &format!(
                "p=$(cat {run}/apiserver.pid); tr '\\0' '\\n' < /proc/$p/cmdline > {run}/apiserver.args; kill -9 $p; \
                 while kill -0 $p 2>/dev/null && ! grep -q '^State:.Z' /proc/$p/status; do sleep 0.1; done"
            ),
        );
        ApiAway(self)
    }

    fn run_dir(&self) -> String {
        let run = self.kubeconfig.parent().and_then(Path::parent).expect("RUN/pki/admin.kubeconfig");
        run.display().to_string()
    }
}

/// While the API server is away.
pub struct ApiAway<'a>(&'a Rig);

impl Drop for ApiAway<'_> {
    fn drop(&mut self) {
        let run = self.0.run_dir();
        self.0.on(
            1,
            &format!(
                "set -- $(cat {run}/apiserver.args); setsid \"$@\" >> {run}/log/apiserver.log 2>&1 < /dev/null & \
                 echo $! > {run}/apiserver.pid"
            ),
        );
        if !std::thread::panicking() {
            eventually("the API server", || {
                let output = self.0.command(&["kubectl", "get", "--raw", "/readyz"]).output().unwrap();
                if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
            });
        }
    }
}
