//! Commands that ask all agents of a cluster. What is the same everywhere is asked of one; what each node knows for
//! itself, of each.

mod lists;
mod status;

use super::client::{self, Agent, Client, ClientError};
use super::crowd::Crowd;
use super::output::{self, Format};
use super::{Ask, analyze, certificates, dashboard, endpoints, explain, graph, routes, services, tap, top};
use crate::admin::view::Workload;
use crate::explain::{Explanation, Question};
use crate::fleet::{Fleet, Member};
use anyhow::{Result, bail};
use serde::de::DeserializeOwned;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;

pub(super) struct Cluster {
    pub(super) fleet: Fleet,
    /// The members are asked on it.
    pub(super) runtime: Arc<Runtime>,
}

pub(super) fn ask(cluster: &Cluster, output: Format, command: Ask) -> Result<ExitCode> {
    let done = match command {
        Ask::Status => return status::run(cluster, output),
        Ask::Workloads => return lists::workloads(cluster, output),
        Ask::Connections => return lists::connections(cluster, output),
        Ask::Diagnostics => return lists::diagnostics(cluster, output),
        Ask::Endpoints(args) if args.from.is_none() && args.files.files.is_empty() => {
            return lists::endpoints(cluster, output, args.service.as_deref());
        }
        Ask::Analyze(args) => return analyze::run(&cluster.some()?, output, &args),
        Ask::Explain(args) => {
            let client = match &args.gateway {
                Some(gateway) => cluster.serving(gateway, &args.url)?,
                None => cluster.of(&args.from)?,
            };
            return explain::run(&client, output, *args);
        }
        Ask::Endpoints(args) => endpoints::run(&cluster.of(args.from.as_deref().unwrap_or("default/"))?, output, &args),
        Ask::Services(args) => services::run(&cluster.some()?, output, &args),
        Ask::Routes(args) => routes::run(&cluster.of(&args.workload)?, output, &args),
        Ask::Certificates(args) => match &args.workload {
            Some(workload) => certificates::run(&cluster.of(workload)?, output, &args),
            // An agent reads the Secrets of its own node's pods only.
            None => bail!("name a workload, or one agent with --node NODE: each has the certificates of its own pods"),
        },
        Ask::Dashboard(args) => {
            let agents = cluster.fleet.members.iter().map(|member| cluster.agent(member)).collect();
            dashboard::run(agents, output, &args)
        }
        Ask::Tap(args) => {
            let clients: Vec<Client> = cluster.fleet.members.iter().map(|member| cluster.client(member)).collect();
            tap::run(&clients, output, args)
        }
        Ask::Top(args) => top::run(&Crowd::All(cluster), output, &args),
        Ask::Graph(args) => graph::run(&Crowd::All(cluster), output, &args),
        Ask::Kernel(_) | Ask::LogLevel(_) | Ask::Version => {
            bail!("each agent has its own: name one with --node NODE")
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Cluster {
    fn agent(&self, member: &Member) -> Agent {
        Agent::Pod(Box::new(member.clone()), Arc::clone(&self.runtime))
    }

    fn client(&self, member: &Member) -> Client {
        Client::new(self.agent(member))
    }

    fn all<T: DeserializeOwned>(&self, path: &str) -> Vec<(&Member, Result<T, ClientError>)> {
        client::read_all(&self.runtime, &self.fleet.members, path)
    }

    /// Answers of those that answer; the others are named on stderr, and are the exit code.
    pub(super) fn heard<T: DeserializeOwned>(&self, path: &str) -> Result<(Vec<(&Member, T)>, ExitCode)> {
        let mut heard = Vec::new();
        let mut code = ExitCode::SUCCESS;
        let mut last = None;
        for (member, answer) in self.all(path) {
            match answer {
                Ok(answer) => heard.push((member, answer)),
                Err(error) => {
                    output::complain(&format!("error: {error}"));
                    (code, last) = (ExitCode::FAILURE, Some(error));
                }
            }
        }
        match last {
            Some(error) if heard.is_empty() => Err(error.into()),
            _ => Ok((heard, code)),
        }
    }

    /// Any agent for what is the same everywhere, one that is ready if there is one.
    fn some(&self) -> Result<Client> {
        let mut members: Vec<&Member> = self.fleet.members.iter().filter(|member| member.silent.is_none()).collect();
        members.sort_by_key(|member| !member.ready);
        match members.first().or(self.fleet.members.first().as_ref()) {
            Some(member) => Ok(self.client(member)),
            None => bail!("the cluster has no agents"),
        }
    }

    /// The agent of the node where the pod runs that `from` names; any agent where it names nobody in particular.
    fn of(&self, from: &str) -> Result<Client> {
        let some = self.some()?;
        let asked = Question { from: from.into(), url: "http://nowhere/".into(), ..Question::default() };
        let explanation: Explanation = some.ask("/explain", &serde_json::to_string(&asked)?)?;
        let Some(pod) = explanation.source.workload else { return Ok(some) };
        let workloads: Vec<Workload> = some.read("/workloads")?;
        match workloads.iter().find(|workload| workload.name == pod) {
            Some(workload) if !workload.node.is_empty() => Ok(self.client(self.fleet.on(&workload.node)?)),
            _ => Ok(some),
        }
    }

    /// The agent of a node with a pod of the Gateway; the last one's refusal where there is none.
    fn serving(&self, gateway: &str, url: &str) -> Result<Client> {
        let asked = Question { gateway: Some(gateway.into()), url: url.into(), ..Question::default() };
        let asked = serde_json::to_string(&asked)?;
        let mut refused = None;
        for member in self.fleet.members.iter().filter(|member| member.silent.is_none()) {
            let client = self.client(member);
            match client.ask::<Explanation>("/explain", &asked) {
                Ok(_) => return Ok(client),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or_else(|| self.some(), |error| Err(error.into()))
    }
}
