//! Which agents a command asks: this node's, those of directories, or a cluster's.

use super::client::Agent;
use super::cluster::Cluster;
use super::{Command, Place};
use crate::fleet::{Access, Fleet};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Agents of a cluster instead of this node's.
#[derive(Debug, Args)]
#[command(next_help_heading = "Agents of a cluster")]
pub struct Remote {
    /// Ask the agents of all nodes of the cluster that kubectl talks to; it takes the right to exec into their pods
    #[arg(long, global = true, conflicts_with = "socket")]
    pub cluster: bool,
    /// As --cluster, by this file
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// As --cluster, by this context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// As --cluster, only the agent of this node
    #[arg(long, global = true, value_name = "NODE")]
    pub node: Option<String>,
    /// Where the cluster's agents are
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = crate::install::NAMESPACE)]
    pub mesh_namespace: String,
}

pub(super) enum Agents {
    /// One by one; all but the dashboard take the first.
    Named(Vec<Agent>),
    All(Cluster),
}

impl Remote {
    /// Flags that the command would not heed.
    pub(super) fn misused(&self, command: &Command) -> Option<&'static str> {
        match command {
            Command::Ask(_) => None,
            Command::Run(_) if self.cluster || self.context.is_some() => {
                Some("--cluster and --context are for commands that ask agents; `run` takes --kube and --kubeconfig")
            }
            Command::Run(args)
                if !args.config.is_empty() && (self.kubeconfig.is_some() || args.kubeconfig.is_some()) =>
            {
                Some("--config and --kubeconfig exclude each other: objects are files', or (--kube) a cluster's")
            }
            Command::Install(_) | Command::Upgrade(_) | Command::Uninstall(_)
                if self.node.is_some() || self.cluster =>
            {
                Some("agents are installed on all nodes; name the cluster with --kubeconfig or --context")
            }
            _ => None,
        }
    }

    /// # Errors
    /// The cluster is not reached, or has no such agent. A socket is not looked at before it is asked.
    pub(super) fn agents(&self, place: &Place) -> Result<Agents> {
        if !(self.cluster || self.kubeconfig.is_some() || self.context.is_some() || self.node.is_some()) {
            return Ok(Agents::Named(place.sockets().into_iter().map(Agent::Socket).collect()));
        }
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.mesh_namespace.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
        let fleet = runtime.block_on(Fleet::find(&access))?;
        let runtime = Arc::new(runtime);
        Ok(match &self.node {
            Some(node) => Agents::Named(vec![Agent::Pod(Box::new(fleet.on(node)?.clone()), runtime)]),
            None => Agents::All(Cluster { fleet, runtime }),
        })
    }
}
