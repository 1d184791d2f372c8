//! `--app`: anybody's Kubernetes YAML, its pods played by the echo app, every port of every Service called in turn.

use super::show::Show;
use super::signals::Signals;
use super::{RunArgs, Verdicts, observe};
use crate::apps::port::Protocol;
use crate::lab::{Lab, Pod};
use crate::manifest::{Manifest, ServicePort};
use crate::tui::{Key, Replica};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Where the calls come from; not a name that users' YAML has.
const CLIENTS: &str = "undermesh-client";

/// Brings the YAML up, puts its namespaces in the mesh, calls its Services: once each, or on and on.
pub(super) fn set(
    lab: &Lab,
    args: &RunArgs,
    show: &mut Show,
    signals: &Signals,
    verdicts: &mut Verdicts,
) -> Result<()> {
    let manifest = Manifest::load(&args.apps)?;
    for note in &manifest.notes {
        show.say(note);
    }
    ensure!(
        !manifest.pod_sets.is_empty(),
        "no Deployment, StatefulSet or Pod in {:?}: there is nothing to bring up",
        args.apps
    );
    let namespaces: Vec<String> = manifest.pod_sets.iter().map(|set| set.namespace.clone()).collect();
    lab.apply(manifest)?;
    let client = lab.pod("client").namespace(CLIENTS).start()?;
    if !args.no_mesh {
        for namespace in namespaces.iter().map(String::as_str).chain([CLIENTS]) {
            lab.label_namespace(namespace, "istio-injection", Some("enabled"))?;
        }
        for agent in lab.agents().iter().filter(|agent| agent.node() == client.node()) {
            agent.await_enrolled(CLIENTS, client.name(), true)?;
        }
        show.view.enrolled = true;
    }
    let view = &mut show.view;
    "Your services".clone_into(&mut view.title);
    "Each pod is the built-in echo app on the ports of its containers. Every port of every Service is called in turn from one client pod.".clone_into(&mut view.lesson);
    client.name().clone_into(&mut view.client.pod);
    view.keys = vec![Key::Quit];
    view.replicas = lab
        .all_pods()
        .iter()
        .filter(|pod| pod.namespace() != CLIENTS)
        .map(|pod| Replica { pod: pod.name().to_owned(), ..Replica::default() })
        .collect();
    show.up(lab);
    loop {
        let first = verdicts.is_empty();
        let round = call_all(lab, &client, show, signals)?;
        if first {
            *verdicts = round;
        }
        if args.once || !show.is_terminal() {
            return Ok(());
        }
        if signals.asked() || show.key(Duration::from_millis(500)) == Some(Key::Quit) {
            return Ok(());
        }
    }
}

fn call_all(lab: &Lab, client: &Pod, show: &mut Show, signals: &Signals) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for service in lab.services() {
        let has_pods = lab.has_ready_pods(&service.service);
        for port in service.service.ports.iter().filter(|port| port.tcp && has_pods) {
            if signals.asked() {
                return Ok(verdicts);
            }
            let target = format!("{}.{}:{}", service.service.name, service.service.namespace, port.port);
            target.clone_into(&mut show.view.client.target);
            let outcome = client.call(&["--target", &target, "--kind", kind(port)])?;
            show.view.client.calls += 1;
            show.view.client.failed += u64::from(!outcome.ok);
            if let Some(replica) = show.view.replicas.iter_mut().find(|replica| replica.pod == outcome.replica) {
                replica.calls += 1;
            }
            let text = if outcome.ok {
                format!("{target} ({}) answered by {}", kind(port), outcome.replica)
            } else {
                format!("{target} ({}): {} {}", kind(port), outcome.code, outcome.message)
            };
            show.say(&text);
            verdicts.push((outcome.ok, text));
            observe::states(lab, &mut show.view);
            show.draw(false);
        }
    }
    observe::kernel(lab, &mut show.view);
    show.draw(true);
    Ok(verdicts)
}

fn kind(port: &ServicePort) -> &'static str {
    let set = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    match Protocol::from_kubernetes(set(&port.name).as_deref(), set(&port.app_protocol).as_deref()) {
        Protocol::Grpc => "grpc",
        Protocol::Tcp | Protocol::Greet => "tcp",
        // Where nothing is declared the first bytes decide, and HTTP is what most samples speak.
        Protocol::Http | Protocol::Detect => "http",
    }
}
