//! `mesh-agent install`, `upgrade`, `uninstall`: what Helm does with the chart, without Helm.

use super::output;
use crate::install::{Cluster, Done, NAMESPACE, Profile, Progress, Values, definitions, manifest, objects};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_yaml_ng::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    target: Target,
    /// Which set of values
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// One value, as the chart's values.yaml names it (`image.tag=0.2.0`). Repeatable
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The definitions of the Gateway API's and Istio's kinds too, where the cluster has none; its own stay as they are
    #[arg(long)]
    crds: bool,
    /// Print the manifests instead of applying them
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Target {
    /// The cluster [default: as kubectl finds it]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[arg(short, long, default_value = NAMESPACE)]
    namespace: String,
    /// How long to wait for the agents of all nodes
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// `upgrade` is the same: what is there already is changed, and its agents are replaced node by node.
pub(super) fn install(args: &InstallArgs, context: Option<&str>) -> Result<()> {
    let mut values = Values::of(args.profile)?;
    args.set.iter().try_for_each(|assignment| values.set(assignment))?;
    let namespace = &args.target.namespace;
    let foreign = if args.crds { definitions()? } else { Vec::new() };
    let own = objects(&values, namespace)?;
    if args.dry_run {
        return output::say(&manifest(&[foreign, own].concat())?);
    }
    block_on(async {
        let cluster = Cluster::of(args.target.kubeconfig.as_deref(), context).await?;
        output::say(&format!("installing into {namespace} of {}\n", cluster.server))?;
        for object in &foreign {
            // Who brought it also brings its next release.
            let done = if cluster.exists(object).await? { Done::Unchanged } else { cluster.apply(object).await? };
            output::say(&format!("  {done:<11} {}\n", title(object)))?;
        }
        for object in &own {
            let done = cluster.apply(object).await?;
            output::say(&format!("  {done:<11} {}\n", title(object)))?;
        }
        let began = Instant::now();
        let mut said = None;
        loop {
            let progress = cluster.progress(namespace).await?;
            if said != Some(progress) {
                output::say(&format!("  agents ready: {} of {}\n", progress.ready, progress.wanted))?;
                said = Some(progress);
            }
            if progress.is_done() {
                let took = began.elapsed();
                output::say(&format!(
                    "ready after {took:.1?}. Pods join with a label on their namespace, without a restart:\n  \
                     kubectl label namespace default istio-injection=enabled\n"
                ))?;
                return Ok(());
            }
            if began.elapsed() > args.target.timeout {
                bail!(late(&args.target, progress));
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

pub(super) fn uninstall(args: &UninstallArgs, context: Option<&str>) -> Result<()> {
    let namespace = &args.target.namespace;
    block_on(async {
        let cluster = Cluster::of(args.target.kubeconfig.as_deref(), context).await?;
        output::say(&format!("removing {namespace} from {}\n", cluster.server))?;
        let all = objects(&Values::of(Profile::Default)?, namespace)?;
        // The DaemonSet first: its agents take their programs along while they may still ask.
        let began = Instant::now();
        let mut rest = all.iter().rev();
        for object in rest.by_ref().take(1) {
            remove(&cluster, object).await?;
        }
        while cluster.pods(namespace).await? > 0 {
            if began.elapsed() > args.target.timeout {
                bail!(
                    "the agents have not ended within {:?}: see `kubectl -n {namespace} get pods`",
                    args.target.timeout
                );
            }
            tokio::time::sleep(POLL).await;
        }
        for object in rest {
            remove(&cluster, object).await?;
        }
        if let Some(own) = all.first() {
            while cluster.exists(own).await? {
                if began.elapsed() > args.target.timeout {
                    bail!("namespace {namespace} does not go: something else is in it");
                }
                tokio::time::sleep(POLL).await;
            }
        }
        output::say("gone; running connections of pods go on\n")?;
        Ok(())
    })
}

/// With the definition of a kind its objects go: it stays while people have some.
async fn remove(cluster: &Cluster, object: &Value) -> Result<()> {
    let done = if cluster.is_used(object).await? { Done::Kept } else { cluster.delete(object).await? };
    output::say(&format!("  {done:<11} {}\n", title(object)))?;
    Ok(())
}

fn late(target: &Target, progress: Progress) -> String {
    let Target { namespace, timeout, .. } = target;
    format!(
        "{} of {} agents are ready after {timeout:?}; see why with\n  \
         kubectl -n {namespace} describe daemonset/undermesh\n  kubectl -n {namespace} logs -l app.kubernetes.io/name=undermesh",
        progress.ready, progress.wanted
    )
}

/// `DaemonSet undermesh`
fn title(object: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    format!("{} {}", text(object.get("kind")), text(object.get("metadata").and_then(|meta| meta.get("name"))))
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?.block_on(work)
}
