//! Findings across objects: what each object says well by itself and yet cannot mean in the company of the others.
//!
//! Place in the path: beside compilation, on demand (`mesh-agent analyze`, `/diagnostics`): a change of one object never
//! pays for it. Pure, and a function of the objects in force. Invariant: nothing is called wrong that works; where the
//! objects at hand cannot tell (a gateway that another folder holds), nothing is said.

mod annotations;
mod deprecated;
mod entries;
mod gateways;
mod hosts;
mod overlaps;
mod references;
mod rules;
mod workloads;

use super::Compiler;
use super::traffic::{destination_rule, virtual_service};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::istio::gateway::Gateway;
use crate::config::resource::istio::{destination_rule as dr, sidecar, virtual_service as vs};
use crate::config::resource::{Labels, Object, Resource, ServiceSpec};
use std::sync::Arc;

/// What the analyzers see: the objects in a fixed order, and what was compiled of them.
struct World<'a> {
    compiler: &'a Compiler,
    objects: Vec<&'a Arc<Resource>>,
    found: Vec<Diagnostic>,
}

impl Compiler {
    /// Every finding that takes more than one object, in order of severity, object and field.
    pub fn analysis(&self) -> Vec<Diagnostic> {
        let mut objects: Vec<_> = self.index.objects().collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let mut world = World { compiler: self, objects, found: Vec::new() };
        references::analyze(&mut world);
        hosts::analyze(&mut world);
        rules::analyze(&mut world);
        overlaps::analyze(&mut world);
        workloads::analyze(&mut world);
        gateways::analyze(&mut world);
        entries::analyze(&mut world);
        annotations::analyze(&mut world);
        deprecated::analyze(&mut world);
        world.found.sort();
        world.found.dedup();
        world.found
    }
}

impl<'a> World<'a> {
    fn say(&mut self, r: &Resource, diagnostic: Diagnostic, field: impl Into<String>, fix: impl Into<String>) {
        self.found.push(diagnostic.object(&r.key).at(&r.place).field(field).fix(fix));
    }

    fn virtual_services(&self) -> Vec<(&'a Resource, &'a vs::Spec)> {
        self.objects.iter().filter_map(|r| virtual_service(r)).collect()
    }

    fn destination_rules(&self) -> Vec<(&'a Resource, &'a dr::Spec)> {
        self.objects.iter().filter_map(|r| destination_rule(r)).collect()
    }

    fn gateways(&self) -> Vec<(&'a Resource, &'a Gateway)> {
        let gateway = |r: &&'a Arc<Resource>| match &r.object {
            Object::IstioGateway(gateway) => Some((&***r, &**gateway)),
            _ => None,
        };
        self.objects.iter().filter_map(gateway).collect()
    }

    fn sidecars(&self) -> Vec<(&'a Resource, &'a sidecar::Spec)> {
        let sidecar = |r: &&'a Arc<Resource>| match &r.object {
            Object::Sidecar(sidecar) => Some((&***r, &sidecar.spec)),
            _ => None,
        };
        self.objects.iter().filter_map(sidecar).collect()
    }

    /// Objects and their pods' labels: of pods, and of what makes pods.
    fn pods(&self) -> Vec<(&'a Resource, &'a Labels)> {
        let labels = |r: &&'a Arc<Resource>| match &r.object {
            Object::Pod(_) => Some((&***r, &r.meta.labels)),
            Object::Controller(controller) => Some((&***r, &controller.spec.template.metadata.labels)),
            _ => None,
        };
        self.objects.iter().filter_map(labels).collect()
    }

    fn services(&self) -> Vec<(&'a Resource, &'a ServiceSpec)> {
        let service = |r: &&'a Arc<Resource>| match &r.object {
            Object::Service(service) => Some((&***r, &service.spec)),
            _ => None,
        };
        self.objects.iter().filter_map(service).collect()
    }

    fn fqdn(&self, host: &str, r: &Resource) -> Arc<str> {
        super::names::fqdn(host, &r.key.namespace, &self.compiler.settings.cluster_domain)
    }
}
