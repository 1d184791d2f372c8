//! A lab: nodes and pods as network namespaces on one machine, with an agent per node if wanted.
//!
//! [`Lab::builder`] starts one, [`Lab::apply_yaml`] brings Kubernetes objects up, [`Lab::pod`] hand-made pods,
//! dropping it removes every trace. Invariant: nothing is made in the host's network namespace, everything follows
//! from the lab's id, so `cleanup` works from the id alone.

mod agent;
mod apply;
mod bins;
mod builder;
pub mod cleanup;
pub mod enter;
mod inner;
mod kube_proxy;
mod kubelet;
mod layout;
mod pod;
mod process;
mod publish;
mod state;

pub use agent::Agent;
pub use bins::Bins;
pub use builder::{LabBuilder, PodBuilder};
pub use layout::Layout;
pub use pod::{Output, Pod, finish_load};
pub use process::{Process, parse_lines};
pub use state::{PodState, ServiceState};

use crate::net::Netns;
use anyhow::Result;
use inner::Inner;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A running lab; dropping it cleans up.
pub struct Lab {
    inner: Arc<Inner>,
    agents: Vec<Agent>,
    kubelet: Option<JoinHandle<()>>,
    janitor: Option<(std::process::Child, ChildStdin)>,
}

impl Lab {
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    pub fn id(&self) -> &str {
        &self.inner.layout.id
    }

    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// A pod made by hand; [`PodBuilder::start`] brings it up.
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(&self.inner, name)
    }

    /// The agent of a node.
    ///
    /// # Panics
    /// The lab was built without agents or has no such node.
    pub fn agent(&self, node: usize) -> &Agent {
        &self.agents[node]
    }

    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// A node's own namespace.
    pub fn node_netns(&self, node: usize) -> &Netns {
        &self.inner.nodes[node].netns
    }

    /// The folder the agents watch; tests drop files of their own into it.
    pub fn config_dir(&self) -> PathBuf {
        self.inner.layout.config()
    }

    /// Takes everything down now and says if something could not be removed. Dropping does the same, silently.
    pub fn finish(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        self.inner.stop();
        if let Some(kubelet) = self.kubelet.take() {
            let _ = kubelet.join();
        }
        self.inner.release();
        let result = cleanup::remove(&self.inner.layout);
        if let Some((mut janitor, mut stdin)) = self.janitor.take() {
            if result.is_ok() {
                let _ = std::io::Write::write_all(&mut stdin, b"done\n");
            }
            drop(stdin);
            let _ = janitor.wait();
        }
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_where_to_look();
        }
        if self.janitor.is_some()
            && let Err(error) = self.take_down()
        {
            tracing::error!("{error:#}");
        }
    }
}

impl Lab {
    /// For a test that fails: what is up and how to enter it while it is.
    #[expect(clippy::print_stderr, reason = "a failing test's output")]
    fn print_where_to_look(&self) {
        for pod in self.inner.pods() {
            eprintln!("pod {}/{}: {}", pod.namespace(), pod.name(), pod.netns().hint());
            let output = pod.log_tail(5);
            if !output.is_empty() {
                eprintln!("{output}");
            }
        }
        for agent in &self.agents {
            eprintln!("agent of {}:\n{}", agent.node(), agent.log_tail(40));
        }
    }
}
