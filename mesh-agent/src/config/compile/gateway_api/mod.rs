//! HTTPRoute, GRPCRoute and ReferenceGrant → routes of the Services (mesh) they are attached to (SEMANTICS §11).
//!
//! Two steps: each route object is compiled by itself, then the routes of one host are merged in the order of
//! precedence. A change costs its own routes and the hosts these are attached to. Whether a backend exists is found
//! out by each request; here it is only a finding.

mod backend;
mod filters;
mod links;
mod matches;
mod rules;
mod spec;

use super::index::{Dirty, service_key};
use super::{Compiler, Found};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::{GrantSpec, ParentRef};
use crate::config::resource::{Object, ObjectKey, Resource};
use crate::snapshot::ServiceName;
use crate::snapshot::route::{Conditions, Family, MESH, VirtualHost, Visibility};
use backend::Referrer;
use links::Links;
use rules::{Ranked, rules};
use rustc_hash::FxHashMap;
use spec::Spec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct GatewayApi {
    attached: FxHashMap<ObjectKey, Vec<Attached>>,
    /// Hosts of Services and the routes attached to them.
    children: Links<Arc<str>, ObjectKey>,
    /// What routes were compiled by beside themselves.
    asked: Links<Question, ObjectKey>,
    /// ReferenceGrants by namespace.
    grants: FxHashMap<Arc<str>, BTreeSet<ObjectKey>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Question {
    /// Is there such a Service, with which ports?
    Service(ServiceName),
    /// Whom does this namespace let in?
    Grants(Arc<str>),
}

/// A route's rules as they hold for one of its parents.
#[derive(Debug)]
struct Attached {
    /// The Service's.
    host: Arc<str>,
    /// The route stands in the Service's namespace and holds for every client; else for clients of its own.
    producer: bool,
    port: Option<u16>,
    routes: Vec<Ranked>,
}

impl GatewayApi {
    /// What the API's routes say about a Service's host: the producer's, and each consumer namespace's.
    pub(super) fn virtual_hosts(&self, host: &Arc<str>) -> impl Iterator<Item = VirtualHost> {
        #[derive(Default)]
        struct Group {
            ports: BTreeSet<u16>,
            all_ports: bool,
            routes: Vec<Ranked>,
        }
        let mut groups: BTreeMap<(bool, Arc<str>), Group> = BTreeMap::new();
        for key in self.children.owners(host) {
            for attached in self.attached.get(key).into_iter().flatten().filter(|a| a.host == *host) {
                let group = groups.entry((!attached.producer, Arc::clone(&key.namespace))).or_default();
                group.ports.extend(attached.port);
                group.all_ports |= attached.port.is_none();
                group.routes.extend(attached.routes.iter().cloned());
            }
        }
        groups.into_iter().map(|((consumer, namespace), mut group)| {
            group.routes.sort_by(|a, b| a.0.cmp(&b.0));
            VirtualHost {
                host: Arc::clone(host),
                family: Family::GatewayApi,
                namespace,
                export: if consumer { Visibility::Private } else { Visibility::Public },
                ports: if group.all_ports { Vec::new() } else { group.ports.into_iter().collect() },
                routes: group.routes.into_iter().map(|(_, route)| route).collect(),
            }
        })
    }

    fn note_grant(&mut self, key: &ObjectKey, exists: bool) {
        let grants = self.grants.entry(Arc::clone(&key.namespace)).or_default();
        if exists {
            grants.insert(key.clone());
        } else {
            grants.remove(key);
        }
        if grants.is_empty() {
            self.grants.remove(&key.namespace);
        }
    }
}

impl Compiler {
    /// Compiles what changed; returns the hosts whose routes may be others now. `others`: hosts about which
    /// VirtualServices changed.
    pub(super) fn apply_gateway_api(
        &mut self,
        dirty: &Dirty,
        others: &BTreeSet<Arc<str>>,
        news: &mut Vec<Diagnostic>,
    ) -> BTreeSet<Arc<str>> {
        let mut keys = dirty.routes.clone();
        for grant in &dirty.grants {
            self.gateway_api.note_grant(grant, self.index.get(grant).is_some());
            keys.extend(self.gateway_api.asked.owners(&Question::Grants(Arc::clone(&grant.namespace))).cloned());
        }
        for service in &dirty.declared {
            keys.extend(self.gateway_api.asked.owners(&Question::Service(service.clone())).cloned());
        }
        for host in others {
            keys.extend(self.gateway_api.children.owners(host).cloned());
        }
        let mut hosts = BTreeSet::new();
        for key in keys {
            let mut found = Vec::new();
            let r = self.index.get(&key).cloned();
            let spec = r.as_deref().and_then(|r| Some((r, Spec::of(r)?)));
            let asked = spec.as_ref().map(|(r, spec)| questions(r, spec)).unwrap_or_default();
            let attached = spec.map(|(r, spec)| self.attach(r, &spec, &mut found)).unwrap_or_default();
            let to: BTreeSet<Arc<str>> = attached.iter().map(|a| Arc::clone(&a.host)).collect();
            hosts.extend(to.iter().cloned());
            hosts.extend(self.gateway_api.children.set(&key, &to));
            self.gateway_api.asked.set(&key, &asked);
            if attached.is_empty() {
                self.gateway_api.attached.remove(&key);
            } else {
                self.gateway_api.attached.insert(key.clone(), attached);
            }
            self.report(key, found, news);
        }
        hosts
    }

    fn attach(&self, r: &Resource, spec: &Spec<'_>, found: &mut Vec<Found>) -> Vec<Attached> {
        let ports = |name: &ServiceName| self.declared_ports(name);
        let referrer = Referrer {
            kind: spec.kind,
            namespace: &r.key.namespace,
            domain: &self.settings.cluster_domain,
            has_port: &|name, port| Some(ports(name)?.contains(&i64::from(port))),
            granted: &|service| self.is_granted(spec.kind, &r.key.namespace, service),
        };
        let mut own = Vec::new();
        let mut attached = Vec::new();
        for (i, parent) in spec.parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{i}]");
            let Some(service) = parent_service(parent, &r.key.namespace) else {
                continue;
            };
            let host: Arc<str> = service.host(&self.settings.cluster_domain).into();
            own.extend(self.parent_advice(&service, parent.port, &host).map(|d| d.field(field)));
            let conditions = Conditions { port: parent.port, gateways: vec![MESH.into()], ..Conditions::default() };
            let default_retry = self.snapshot.mesh().retry.as_ref();
            let routes = rules(r, spec, &conditions, default_retry, &referrer, &mut own);
            let producer = service.namespace == r.key.namespace;
            attached.push(Attached { host, producer, port: parent.port, routes });
        }
        found.extend(own.into_iter().map(|diagnostic| (None, diagnostic)));
        attached
    }

    fn parent_advice(&self, service: &ServiceName, port: Option<u16>, host: &Arc<str>) -> Option<Diagnostic> {
        let missing = |message: String| Diagnostic::warning(Code::ReferencedResourceNotFound, message);
        match (self.declared_ports(service), port) {
            (None, _) => {
                let diagnostic = missing(format!("there is no Service {service} to attach to"));
                return Some(diagnostic.fix("add the Service, or correct name and namespace"));
            }
            (Some(ports), Some(port)) if !ports.contains(&i64::from(port)) => {
                let diagnostic = missing(format!("Service {service} has no TCP port {port} to attach to"));
                return Some(diagnostic.fix("correct the port, or leave it out to attach to all ports"));
            }
            _ => {}
        }
        let meshed = |gateways: &[Arc<str>]| gateways.iter().any(|gateway| &**gateway == MESH);
        let (rival, _) = self.traffic.of_host(host).find(|(_, compiled)| meshed(&compiled.gateways))?;
        let message =
            format!("{rival} speaks for {host} too and wins wherever it is seen: there this route has no effect");
        Some(Diagnostic::warning(Code::RivalRoutes, message).fix("remove one of the two"))
    }

    /// TCP ports of a Service; `None` where there is no such Service.
    fn declared_ports(&self, name: &ServiceName) -> Option<Vec<i64>> {
        let Object::Service(service) = &self.index.get(&service_key(name))?.object else { return None };
        Some(service.spec.ports.iter().filter(|port| port.is_tcp()).map(|port| port.port).collect())
    }

    fn is_granted(&self, kind: &str, namespace: &str, service: &ServiceName) -> bool {
        let grants = self.gateway_api.grants.get(&service.namespace).into_iter().flatten();
        let mut specs = grants.filter_map(|key| grant(self.index.get(key)?));
        specs.any(|spec| spec.allows((kind, namespace), ("Service", &service.name)))
    }
}

fn grant(r: &Resource) -> Option<&GrantSpec> {
    let Object::ReferenceGrant(grant) = &r.object else { return None };
    Some(&grant.spec)
}

fn parent_service(parent: &ParentRef, namespace: &Arc<str>) -> Option<ServiceName> {
    let is_service = parent.group.is_empty() && &*parent.kind == "Service";
    let namespace = parent.namespace.as_ref().unwrap_or(namespace);
    is_service.then(|| ServiceName { namespace: Arc::clone(namespace), name: Arc::clone(&parent.name) })
}

fn questions(r: &Resource, spec: &Spec<'_>) -> BTreeSet<Question> {
    let own = &r.key.namespace;
    let mut asked: BTreeSet<_> =
        spec.parents.iter().filter_map(|p| parent_service(p, own)).map(Question::Service).collect();
    for reference in spec.backends().filter(|reference| backend::is_service(reference)) {
        let namespace = Arc::clone(reference.namespace.as_ref().unwrap_or(own));
        if namespace != *own {
            asked.insert(Question::Grants(Arc::clone(&namespace)));
        }
        asked.insert(Question::Service(ServiceName { namespace, name: Arc::clone(&reference.name) }));
    }
    asked
}
