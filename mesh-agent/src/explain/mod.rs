//! Why a request goes where it goes, and what it would be answered: `mesh-agent explain`.
//!
//! Place: beside the data path, with the data path's own functions (`Destinations`, `route::check`, `rewrite`,
//! `Timeouts`, `affinity`, `Cluster::pick`) on the snapshot in force or on one made of files. Invariants: nothing is
//! decided here, only asked and written down; nothing is changed: no token is taken, no turn of round robin used.

mod backend;
pub mod certificates;
mod dial;
mod exchange;
mod filters;
mod l4;
mod lookup;
pub mod offline;
mod question;
mod reference;
pub mod seen;
pub mod source;
mod verdict;
pub mod view;
mod words;

pub use question::{Question, Wrong};
pub use view::{Explanation, Outcome};

use crate::addr::OrigDst;
use crate::balance::Registry;
use crate::config::compile::Compiler;
use crate::connect::Dialer;
use crate::destination::Destinations;
use crate::listen::{self, Wants};
use crate::snapshot::{Client, Enrolment, OutsideReason, Snapshot, Workload};
use crate::time::Nanos;
use arc_swap::ArcSwap;
use question::Asked;
use source::Found;
use std::net::SocketAddr;
use std::sync::Arc;
use view::{Reference, Request, Source};

/// What is asked about.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub snapshot: &'a Arc<Snapshot>,
    /// What the snapshot was made by.
    pub compiler: &'a Compiler,
    /// Run-time state of endpoints; an empty one where nothing runs.
    pub registry: &'a Arc<Registry>,
    /// What keeps an enrolled pod outside, as the agent found; `None` where nothing does.
    pub trouble: &'a dyn Fn(&Workload) -> Option<String>,
    /// Whether an agent runs: what files alone cannot tell is known then.
    pub live: bool,
    pub now: Nanos,
}

/// One client's request on its way, and who it is looked up for.
struct Asking<'a> {
    world: &'a World<'a>,
    asked: &'a Asked,
    destinations: Destinations,
    source: listen::Source,
    /// The client, or the gateway's pod.
    workload: Arc<Workload>,
    /// The client stands for any pod of its namespace.
    assumed: bool,
    wants: Wants,
    address: SocketAddr,
}

/// Explains one request.
///
/// # Errors
/// The question cannot be understood, or names a client or Gateway that is not there.
pub fn explain(world: &World<'_>, question: &Question) -> Result<Explanation, Wrong> {
    let asked = Asked::new(question)?;
    let found = match &question.gateway {
        Some(name) => Found::Workload(lookup::gateway_pod(world, name)?),
        None => source::find(world.snapshot, &question.from)?,
    };
    let client = found.workload();
    let dialled = dial::dial(world.snapshot, &client_of(&client), &asked, question)?;
    let asking = Asking::new(world, &asked, &found, question.gateway.as_deref(), dialled.address);
    let mut explanation = match &question.gateway {
        Some(name) => exchange::at_gateway(&asking, name),
        None => exchange::in_mesh(&asking),
    };
    explanation.notes.splice(0..0, dialled.notes);
    Ok(explanation)
}

fn client_of(workload: &Workload) -> Client<'_> {
    Client { namespace: &workload.key.namespace, labels: &workload.labels }
}

impl<'a> Asking<'a> {
    fn new(world: &'a World<'a>, asked: &'a Asked, found: &Found, gateway: Option<&str>, address: SocketAddr) -> Self {
        let workload = found.workload();
        Self {
            world,
            asked,
            destinations: Destinations::new(
                Arc::new(ArcSwap::from(Arc::clone(world.snapshot))),
                Arc::clone(world.registry),
                Arc::default(),
            ),
            source: listen::Source { workload: Some(Arc::clone(&workload)), cookie: 0, dialer: Dialer::Host },
            workload,
            assumed: matches!(found, Found::Anybody(_)),
            wants: match gateway {
                Some(_) => Wants::Gateway { port: address.port(), sni: asked.sni.as_deref().map(Into::into) },
                None => Wants::Original(OrigDst::new(address)),
            },
            address,
        }
    }

    fn client(&self) -> Client<'_> {
        client_of(&self.workload)
    }

    fn request(&self) -> Request {
        let head = crate::route::Head::of(&self.asked.parts);
        let fields = self.asked.parts.headers.iter().filter(|(name, _)| **name != http::header::HOST);
        Request {
            method: head.method.to_owned(),
            authority: head.authority.to_owned(),
            target: head.target.to_owned(),
            headers: fields
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            protocol: match self.asked.speaks {
                question::Speaks::Http => "http",
                question::Speaks::Tls => "tls",
                question::Speaks::Tcp => "tcp",
            }
            .into(),
            sni: self.asked.sni.clone(),
            address: self.address,
        }
    }

    fn source(&self, gateway: Option<&str>) -> Source {
        let workload = &self.workload;
        let named = (!self.assumed).then_some(workload);
        let (mesh, reason) = named.map_or(("assumed", String::new()), |workload| self.standing(workload));
        let snapshot = self.world.snapshot;
        let scope = snapshot.egress(&self.client(), &snapshot.mesh().root_namespace).filter(|_| gateway.is_none());
        let labels = workload.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Source {
            workload: named.map(|workload| workload.key.to_string()),
            owner: named.map(|workload| format!("{}/{}", workload.owner.kind, workload.owner.name)),
            namespace: workload.key.namespace.to_string(),
            labels: labels.collect(),
            mesh: mesh.into(),
            reason,
            gateway: gateway.map(str::to_owned),
            sidecar: scope.map(|scope| self.reference(&scope.rule)),
        }
    }

    fn standing(&self, workload: &Workload) -> (&'static str, String) {
        match &workload.enrolment {
            Enrolment::Enrolled { .. } => match (self.world.trouble)(workload) {
                Some(trouble) => ("outside", trouble),
                None => ("enrolled", String::new()),
            },
            Enrolment::Elsewhere => ("elsewhere", String::new()),
            // Files do not know network namespaces.
            Enrolment::Outside { reason: OutsideReason::NoNetns } if !self.world.live => ("enrolled", String::new()),
            Enrolment::Outside { reason } => ("outside", reason.to_string()),
        }
    }

    fn reference(&self, rule: &crate::snapshot::route::RuleRef) -> Reference {
        reference::of_rule(self.world.compiler, rule)
    }
}

#[cfg(test)]
mod tests;
