//! ServiceEntries in force: which hosts they define, their addresses, and what makes them be compiled again.

use super::endpoints::Found;
use super::index::{Age, Dirty};
use super::service_entry::{self, Selected};
use super::{Compiler, Questions};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::service_entry::Spec;
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use crate::snapshot::{Service, ServiceName};
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

impl Compiler {
    /// Notes which hosts the changed entries define now; marks their Services.
    pub(super) fn apply_entries(&mut self, dirty: &mut Dirty, news: &mut Vec<Diagnostic>) {
        for key in &dirty.service_entries {
            let entry = self.index.get(key).and_then(service_entry);
            let new = entry.map(|(r, spec)| {
                let names = service_entry::names(r, spec, &self.settings.cluster_domain);
                (Age::of(r), names, bad_hosts(spec))
            });
            dirty.services.extend(self.entries.clear(key));
            let found = match new {
                Some((age, names, bad)) => {
                    self.entries.set(key, &age, &names);
                    dirty.services.extend(names);
                    bad.into_iter().map(|d| (None, d)).collect()
                }
                None => Vec::new(),
            };
            self.report(key.clone(), found, news);
        }
        for name in &dirty.declared {
            self.asked.about_service(name, &mut dirty.services);
        }
        for name in &dirty.names {
            self.asked.about_name(name, &mut dirty.services);
        }
    }

    /// The oldest entry of a namespace that defines a host.
    pub(super) fn entry(&self, name: &ServiceName) -> Option<(&Resource, &Spec)> {
        self.index.get(self.entries.winner(name)?).and_then(service_entry)
    }

    /// Addresses that an entry's host has, or may have where none is written.
    pub(super) fn entry_addresses(&self, name: &ServiceName) -> Option<(Age, Vec<IpAddr>, Vec<IpAddr>)> {
        let (r, spec) = self.entry(name)?;
        let written = service_entry::addresses(spec, &mut Vec::new());
        Some((Age::of(r), written, service_entry::auto_addresses(name, spec)))
    }

    pub(super) fn compile_entry<'a>(
        &'a self,
        name: &ServiceName,
        former: Option<&Service>,
        asked: &mut Questions,
        found: &mut Vec<Found<'a>>,
    ) -> Option<Service> {
        let (r, spec) = self.entry(name)?;
        let mut own = Vec::new();
        if let Some(service) = kubernetes_service(&name.name, &self.settings.cluster_domain) {
            asked.services.insert(service.clone());
            if self.service(&service).is_some() {
                let message = format!("{} is a Kubernetes Service: the entry adds nothing to it", name.name);
                let diagnostic = Diagnostic::info(Code::NotSupported, message).field("spec.hosts");
                found.push((Some(r), diagnostic.fix("remove the entry, or the host from it")));
                return None;
            }
        }
        for other in self.entries.claimants(name).filter(|key| **key != r.key) {
            if let Some(other) = self.index.get(other) {
                let message = format!("{} is older and defines {} too; this one has no effect", r.key, name.name);
                let diagnostic = Diagnostic::warning(Code::HostTaken, message).field("spec.hosts");
                found.push((
                    Some(other),
                    diagnostic.fix("put all endpoints and ports of the host into one ServiceEntry"),
                ));
            }
        }
        let mut vips = service_entry::addresses(spec, &mut own);
        vips.retain(|vip| {
            let winner = self.vips.winner(vip);
            if let Some(winner) = winner.filter(|winner| *winner != name) {
                let message = format!("{vip} is already the address of {winner}; it is left out here");
                let diagnostic = Diagnostic::error(Code::AddressTaken, message).field("spec.addresses");
                own.push(diagnostic.fix("give each host an address of its own"));
            }
            winner == Some(name)
        });
        let auto = service_entry::auto_addresses(name, spec);
        vips.extend(
            auto.iter().find(|vip| self.auto_vips.winner(vip) == Some(name) && self.vips.winner(vip).is_none()),
        );
        let asked = RefCell::new(asked);
        let resolved = |host: &str| {
            let host: Arc<str> = host.into();
            let answers = self.resolved.get(&host).cloned().unwrap_or_default();
            asked.borrow_mut().names.insert(host);
            answers
        };
        let input = service_entry::Input {
            spec,
            name: name.clone(),
            vips,
            selected: self.selected_by(r, spec, &mut asked.borrow_mut()),
            resolved: &resolved,
            export: &self.mesh.service_export,
            former,
        };
        let service = service_entry::compile(input, &mut own);
        found.extend(own.into_iter().map(|d| (Some(r), d)));
        Some(service)
    }

    fn selected_by<'a>(&'a self, r: &Resource, spec: &'a Spec, asked: &mut Questions) -> Vec<Selected<'a>> {
        let Some(selector) = &spec.workload_selector else { return Vec::new() };
        let mut selected = Vec::new();
        for (name, pod) in self.index.selected(&r.key.namespace, &selector.labels) {
            if let Object::Pod(pod) = &pod.object {
                asked.pods.insert(name.clone());
                selected.push(Selected::Pod(pod, self.workload_of(name)));
            }
        }
        for entry in self.index.workload_entries(&r.key.namespace, &selector.labels) {
            if let Object::WorkloadEntry(object) = &entry.object {
                selected.push(Selected::Entry(entry, &object.spec));
            }
        }
        selected
    }

    /// Names that DNS is asked for, in no order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.asked.names.keys()
    }
}

/// The key under which findings about one host of an entry are kept; no object has it.
pub(super) fn host_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::ServiceEntry,
        namespace: Arc::clone(&name.namespace),
        name: format!("host {}", name.name).into(),
    }
}

pub(super) fn service_entry(r: &Arc<Resource>) -> Option<(&Resource, &Spec)> {
    let Object::ServiceEntry(object) = &r.object else { return None };
    Some((r, &object.spec))
}

/// `reviews.shop.svc.cluster.local` → `shop/reviews`
pub(super) fn kubernetes_service(host: &str, domain: &str) -> Option<ServiceName> {
    let (name, namespace) = host.strip_suffix(domain)?.strip_suffix(".svc.")?.split_once('.')?;
    (!namespace.contains('.')).then(|| ServiceName::new(namespace, name))
}

fn bad_hosts(spec: &Spec) -> Vec<Diagnostic> {
    let bad = spec.hosts.iter().enumerate().filter(|(_, host)| !service_entry::is_host(host));
    let said = bad.map(|(i, host)| {
        Diagnostic::error(Code::SchemaValidationError, format!("host {:?} is not a DNS name; it is left out", &**host))
            .field(format!("spec.hosts[{i}]"))
            .fix("write a DNS name, or *.suffix")
    });
    let mut said: Vec<_> = said.collect();
    if spec.hosts.is_empty() {
        let diagnostic = Diagnostic::error(Code::SchemaValidationError, "no hosts: it defines nothing");
        said.push(diagnostic.field("spec.hosts").fix("add the names that clients use"));
    }
    said
}
