//! `mesh-agent explain`: why a request goes where it goes, of a running agent or of files.

mod render;

pub(super) use render::health;

use super::client::Client;
use super::output::{self, Format};
use crate::balance::Registry;
use crate::explain::offline::{self, Offline};
use crate::explain::{Explanation, Outcome, Question, World, explain};
use crate::time::Nanos;
use anyhow::{Result, anyhow};
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExplainArgs {
    /// HOST[:PORT][/PATH], or with http://, https://, grpc://, tls:// or tcp://
    pub url: String,
    /// Who asks: POD, NAMESPACE/POD, [NAMESPACE/]deploy/NAME, [NAMESPACE/]LABEL=VALUE, or NAMESPACE/ for some pod of it
    #[arg(long, short = 's', value_name = "WORKLOAD", default_value = "default/", hide_default_value = true)]
    pub from: String,
    /// The request comes from outside, to this Gateway
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "from")]
    pub gateway: Option<String>,
    /// GET, or POST for gRPC, if left out
    #[arg(long, short = 'X')]
    pub method: Option<String>,
    /// Repeatable; `Host: …` is what is asked for, the URL where the connection goes
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Instead of the URL's
    #[arg(long)]
    pub port: Option<u16>,
    /// The name in the client's ClientHello, where it is not the URL's host (https:// and tls://)
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// What the client's DNS says of the host, where no object does
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    #[command(flatten)]
    pub files: Files,
}

/// Files instead of the running agent.
#[derive(Debug, Default, Args)]
pub struct Files {
    /// Files and folders of Kubernetes YAML, taken together, instead of the running agent. Repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE|DIR")]
    pub files: Vec<PathBuf>,
    /// Domain of Services' DNS names (with -f)
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

const AFTER_HELP: &str = "\
Answers with the data path's own functions: which Service the host is, which object and rule take the request, which
rules were tried before and why they did not hold, faults, rewrites, mirrors, timeout, retries, the DestinationRule
that counts, every endpoint and what the balancer knows of it, and what the client would be answered.

Examples:
  mesh-agent explain --from deploy/productpage-v1 reviews:9080/reviews/1
  mesh-agent explain --from shop/web-7d9c reviews:9080 -H 'end-user: jason'
  mesh-agent explain --from app=web grpc://pay.shop:50051/shop.Pay/Charge    POST, application/grpc
  mesh-agent explain --from web tcp://db:5432                                opaque bytes: who places them
  mesh-agent explain --from web tls://10.0.0.9:443 --sni api.example.com     TLS of the app's own: by its name
  mesh-agent explain --gateway default/bookinfo-gateway https://bookinfo.example/productpage
  mesh-agent explain -f ./mesh.d reviews:9080/                               files, without an agent
  mesh-agent explain -f ./mesh.d reviews:9080/ -o json | jq .verdict

With -f, pods of the files' Deployments and addresses of their Services are assumed, and nothing is measured.

Exit codes: 0 an endpoint answers (or a rule does: a redirect, a preflight), 1 wrong usage or no agent to ask,
2 the request is refused: the verdict says with which status, response flag and text.";

pub(super) fn run(client: &Client, format: Format, args: ExplainArgs) -> Result<ExitCode> {
    let ExplainArgs { url, from, gateway, method, headers, port, sni, address, files } = args;
    let question = Question { from, gateway, method, url, headers, port, sni, address };
    let explanation = if files.files.is_empty() {
        client.ask("/explain", &serde_json::to_string(&question)?)?
    } else {
        offline(&files, &question)?
    };
    output::print(format, &explanation, |paint| render::text(&explanation, paint))?;
    Ok(exit_code(&explanation))
}

fn offline(files: &Files, question: &Question) -> Result<Explanation> {
    let world = files.load()?;
    let mut explanation = explain(&world_of(&world, &Arc::default()), question)?;
    explanation.notes.extend(world.notes);
    let errors = world.findings.iter().filter(|d| d.severity == crate::config::Severity::Error).count();
    if errors > 0 {
        let (parts, them) =
            if errors == 1 { ("part of the files is", "it") } else { ("parts of the files are", "them") };
        explanation.notes.push(format!("{errors} {parts} not in force; `mesh-agent analyze` names {them}"));
    }
    Ok(explanation)
}

fn exit_code(explanation: &Explanation) -> ExitCode {
    match explanation.verdict.outcome {
        Outcome::Forwarded | Outcome::Answered => ExitCode::SUCCESS,
        Outcome::Refused => ExitCode::from(2),
    }
}

impl Files {
    pub(super) fn load(&self) -> Result<Offline> {
        offline::load(&self.files, &self.cluster_domain).map_err(|findings| {
            let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow!("{}", said.join("\n"))
        })
    }
}

/// A world in which nothing runs.
pub(super) fn world_of<'a>(offline: &'a Offline, registry: &'a Arc<Registry>) -> World<'a> {
    let Offline { compiler, snapshot, .. } = offline;
    World { snapshot, compiler, registry, trouble: &|_| None, live: false, now: Nanos::now() }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not `NAME: VALUE`"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests;
