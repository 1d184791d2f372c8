//! Where the cluster layer's tests find a Kubernetes: the one of `KUBECONFIG`, or one that a script brings up here.
//!
//! The script (`UNDERMESH_KUBE_RIG`) has the verbs build, up, down, load, env, exec, kubectl; what it builds takes long
//! the first time, so that begins with the whole run, behind everything else.

use crate::sh;
use crate::test::{Step, Tests};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const RIG: &str = "UNDERMESH_KUBE_RIG";
pub(crate) const LONG: &str = "UNDERMESH_CLUSTER_LONG";

const NODES: &str = "2";

pub(crate) enum Place {
    /// A cluster of somebody's, with both images on its nodes.
    Kubeconfig,
    /// One of this machine, by this script.
    Rig(PathBuf),
}

impl Place {
    /// # Errors
    /// Where there is neither; the text says what to set.
    pub(crate) fn find() -> Result<Self> {
        if std::env::var_os("KUBECONFIG").is_some() {
            return Ok(Self::Kubeconfig);
        }
        match std::env::var_os(RIG).map(PathBuf::from) {
            Some(rig) if rig.is_file() => Ok(Self::Rig(rig)),
            Some(rig) => bail!("{RIG}: there is no file {}", rig.display()),
            None => bail!(
                "the cluster tests need a Kubernetes: set KUBECONFIG to one whose nodes have the images of `cargo xtask \
                 image --fast --apps` (kind load image-archive target/image/mesh-agent.tar, then mesh-app.tar), or {RIG} to a \
                 script that brings one up; `--skip cluster` leaves them out"
            ),
        }
    }

    /// Begins what takes long, with what the machine has to spare. Its outcome is the step's that waits for it.
    pub(crate) fn prepare(&self) {
        let Self::Rig(rig) = self else { return };
        let mut build = build(rig, &["nice", "-n", "19"]);
        let _ = build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }

    /// `command`: what runs tests. Those that need the nodes themselves begin with `cluster_rig_`; `kube_` ones need an API
    /// server alone, and none of our agents there.
    pub(crate) fn steps(&self, command: impl Fn(&Tests) -> Command) -> Vec<Step> {
        let tests = |wanted| command(&Tests { wanted, runner: sh::root_runner() });
        let statuses = |runner| command(&Tests { wanted: |name| name.starts_with("kube_"), runner });
        let mut images = sh::cargo();
        images.args(["run", "--quiet", "--package", "xtask", "--", "image", "--fast", "--apps"]);
        match self {
            Self::Kubeconfig => {
                sh::say("  note  KUBECONFIG: tests that enter nodes (cluster_rig_*) are left out");
                vec![
                    Step::setup("images", images),
                    Step::new("statuses", statuses(Vec::new())),
                    Step::new(
                        "cluster",
                        tests(|name| name.starts_with("cluster_") && !name.starts_with("cluster_rig_")),
                    ),
                ]
            }
            Self::Rig(rig) => vec![
                Step::setup("kube rig", build(rig, &[])),
                Step::setup("images", images),
                Step::setup("cluster up, nftables", up(rig, "nftables")),
                Step::new("statuses", statuses(within(rig))),
                Step::new("cluster", tests(|name| name.starts_with("cluster_"))),
                Step::setup("cluster up, iptables", up(rig, "iptables")),
                Step::new("cluster, iptables", tests(|name| name == "cluster_install")),
                Step::last("cluster down", as_root(rig, &["down"])),
            ],
        }
    }
}

/// One at a time: whoever comes second finds it done, or sees why it cannot be.
fn build(rig: &Path, through: &[&str]) -> Command {
    let lock = sh::root().join("target/xtask");
    let _ = std::fs::create_dir_all(&lock);
    let mut command = Command::new("flock");
    command.arg(lock.join("kube-rig.lock")).args(through).arg(rig).arg("build");
    command
}

/// Where the rig's API server is reached, with `KUBECONFIG` set.
fn within(rig: &Path) -> Vec<String> {
    [sh::root_runner(), vec![rig.display().to_string(), "exec".into(), "sw".into()]].concat()
}

/// Whatever a former run left goes first. Nodes short of disk take no pods and throw images away: said here, not by each
/// test after minutes of waiting.
const UP: &str = r#"
rig=$1; shift
"$rig" down
"$rig" up
for image; do "$rig" load "$image"; done
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    taints=$("$rig" kubectl get nodes -o 'jsonpath={.items[*].spec.taints[*].key}')
    [ -n "$taints" ] || exit 0
    sleep 1
done
echo "nodes take no pods: $taints"
df -h /
exit 1
"#;

fn up(rig: &Path, proxy: &str) -> Command {
    let mut command = as_root(Path::new("sh"), &["-e", "-c", UP, "sh"]);
    command.arg(rig).env("NODES", NODES).env("PROXYMODE", proxy);
    command.args(["mesh-agent.tar", "mesh-app.tar"].map(|image| sh::root().join("target/image").join(image)));
    command
}

fn as_root(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(if sh::is_root() { program } else { Path::new("sudo") });
    if !sh::is_root() {
        command.arg("-E").arg(program);
    }
    command.args(args);
    command
}
