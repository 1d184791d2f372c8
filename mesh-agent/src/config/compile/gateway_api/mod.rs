//! HTTPRoute, GRPCRoute and ReferenceGrant → routes of the Services (mesh) and Gateways they are attached to
//! (SEMANTICS §11).
//!
//! Two steps: each route object is compiled by itself, then the routes of one host are merged in the order of
//! precedence. A change costs its own routes and the hosts these are attached to. Whether a backend exists is found
//! out by each request; here it is only a finding.

mod attach;
mod backend;
mod filters;
mod matches;
mod rules;
mod spec;
mod status;

use super::gateway::name_of;
use super::index::{Dirty, service_key};
use super::links::Links;
use super::{Compiler, Found};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::{GROUP, GrantSpec, ParentRef};
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use crate::snapshot::ServiceName;
use crate::snapshot::route::{Conditions, Family, MESH, VirtualHost, Visibility};
use attach::OnListener;
use backend::Referrer;
pub(super) use rules::Ranked;
use rules::rules;
use rustc_hash::FxHashMap;
use spec::Spec;
pub(super) use status::AttachedRoutes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct GatewayApi {
    attached: FxHashMap<ObjectKey, Vec<Attached>>,
    /// Parents and the routes attached to them.
    children: Links<Parent, ObjectKey>,
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
    /// Which listeners has it, and is it ours?
    Gateway(ObjectKey),
    Namespace(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Parent {
    /// A Service's.
    Host(Arc<str>),
    /// `namespace/name`
    Gateway(Arc<str>),
}

/// What a batch of changes may have changed for others.
#[derive(Debug, Default)]
pub(super) struct Affected {
    pub(super) hosts: BTreeSet<Arc<str>>,
    /// By name.
    pub(super) gateways: BTreeSet<Arc<str>>,
}

/// A route's rules as they hold for one of its parents.
#[derive(Debug)]
struct Attached {
    parent: Parent,
    /// The route stands in the Service's namespace and holds for every client; else for clients of its own.
    producer: bool,
    port: Option<u16>,
    /// Of a Gateway.
    listeners: Vec<OnListener>,
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
        let parent = Parent::Host(Arc::clone(host));
        for key in self.children.owners(&parent) {
            for attached in self.attached.get(key).into_iter().flatten().filter(|a| a.parent == parent) {
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

    /// Routes attached to a Gateway's listener, by host.
    pub(super) fn attached_to(&self, gateway: &str, listener: &str) -> Vec<(Arc<str>, Vec<Ranked>)> {
        let parent = Parent::Gateway(gateway.into());
        let keys = self.children.owners(&parent);
        let attached = keys.flat_map(|key| self.attached.get(key).into_iter().flatten()).filter(|a| a.parent == parent);
        let on =
            attached.flat_map(|a| a.listeners.iter().filter(|(name, _)| **name == *listener).map(move |on| (a, on)));
        on.flat_map(|(a, (_, hosts))| hosts.iter().map(|host| (Arc::clone(host), a.routes.clone()))).collect()
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
    /// Compiles what changed. `others`: hosts about which VirtualServices changed.
    pub(super) fn apply_gateway_api(
        &mut self,
        dirty: &Dirty,
        others: &BTreeSet<Arc<str>>,
        news: &mut Vec<Diagnostic>,
    ) -> Affected {
        let mut affected = Affected::default();
        for key in self.stale_routes(dirty, others) {
            let mut found = Vec::new();
            let r = self.index.get(&key).cloned();
            let spec = r.as_deref().and_then(|r| Some((r, Spec::of(r)?)));
            let asked = spec.as_ref().map(|(r, spec)| questions(r, spec)).unwrap_or_default();
            let attached = spec.map(|(r, spec)| self.attach(r, &spec, &mut found)).unwrap_or_default();
            let to: BTreeSet<Parent> = attached.iter().map(|a| a.parent.clone()).collect();
            for parent in self.gateway_api.children.set(&key, &to).into_iter().chain(to) {
                match parent {
                    Parent::Host(host) => affected.hosts.insert(host),
                    Parent::Gateway(name) => affected.gateways.insert(name),
                };
            }
            self.gateway_api.asked.set(&key, &asked);
            if attached.is_empty() {
                self.gateway_api.attached.remove(&key);
            } else {
                self.gateway_api.attached.insert(key.clone(), attached);
            }
            self.report(key, found, news);
        }
        affected
    }

    /// Routes that changed, and those that asked for something that did.
    fn stale_routes(&mut self, dirty: &Dirty, others: &BTreeSet<Arc<str>>) -> BTreeSet<ObjectKey> {
        for grant in &dirty.grants {
            self.gateway_api.note_grant(grant, self.index.get(grant).is_some());
        }
        let api = &self.gateway_api;
        let mut questions: Vec<Question> = Vec::new();
        questions.extend(dirty.grants.iter().map(|grant| Question::Grants(Arc::clone(&grant.namespace))));
        questions.extend(dirty.declared.iter().cloned().map(Question::Service));
        questions.extend(dirty.gateways.iter().cloned().map(Question::Gateway));
        questions.extend(dirty.namespaces.iter().cloned().map(Question::Namespace));
        if dirty.classes {
            questions.extend(api.asked.all_keys().filter(|q| matches!(q, Question::Gateway(_))).cloned());
        }
        let mut keys = dirty.routes.clone();
        keys.extend(questions.iter().flat_map(|question| api.asked.owners(question)).cloned());
        let hosts = others.iter().cloned().map(Parent::Host);
        keys.extend(hosts.flat_map(|host| api.children.owners(&host).cloned().collect::<Vec<_>>()));
        keys
    }

    fn attach(&self, r: &Resource, spec: &Spec<'_>, found: &mut Vec<Found>) -> Vec<Attached> {
        let own_namespace = &r.key.namespace;
        let mut own = Vec::new();
        let mut attached = Vec::new();
        for (i, parent) in spec.parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{i}]");
            let made = if let Some(service) = parent_service(parent, own_namespace) {
                let host: Arc<str> = service.host(&self.settings.cluster_domain).into();
                own.extend(self.parent_advice(&service, parent.port, &host).map(|d| d.field(field)));
                let producer = service.namespace == *own_namespace;
                Some((Parent::Host(host), producer, Vec::new()))
            } else if let Some(gateway) = parent_gateway(parent, own_namespace) {
                match self.listeners(r, spec, parent, &gateway) {
                    Ok(listeners) => Some((Parent::Gateway(name_of(&gateway)), false, listeners)),
                    Err(diagnostic) => {
                        own.extend(diagnostic.map(|d| d.field(field)));
                        None
                    }
                }
            } else {
                let message = format!("a parent of kind {} (group {:?}) is not supported", parent.kind, &*parent.group);
                let diagnostic = Diagnostic::warning(Code::NotAttached, message).field(field);
                own.push(diagnostic.fix("name a Service or a Gateway"));
                None
            };
            let Some((parent_key, producer, listeners)) = made else { continue };
            let (port, gateway): (_, Arc<str>) = match &parent_key {
                Parent::Host(_) => (parent.port, MESH.into()),
                // The listener has the port already.
                Parent::Gateway(name) => (None, Arc::clone(name)),
            };
            let conditions = Conditions { port, gateways: vec![gateway], ..Conditions::default() };
            let routes = self.rules(r, spec, &conditions, &mut own);
            attached.push(Attached { parent: parent_key, producer, port, listeners, routes });
        }
        found.extend(own.into_iter().map(|diagnostic| (None, diagnostic)));
        attached
    }

    fn rules(
        &self,
        r: &Resource,
        spec: &Spec<'_>,
        conditions: &Conditions,
        found: &mut Vec<Diagnostic>,
    ) -> Vec<Ranked> {
        let namespace = &r.key.namespace;
        let referrer = Referrer {
            kind: spec.kind,
            namespace,
            domain: &self.settings.cluster_domain,
            has_port: &|name, port| Some(self.declared_ports(name)?.contains(&i64::from(port))),
            granted: &|to| self.is_granted((spec.kind, namespace), &to.namespace, ("Service", &to.name)),
        };
        rules(r, spec, conditions, self.snapshot.mesh().retry.as_ref(), &referrer, found)
    }

    /// `Err(None)`: the Gateway is another controller's, and so is the route there.
    fn listeners(
        &self,
        r: &Resource,
        spec: &Spec<'_>,
        parent: &ParentRef,
        gateway: &ObjectKey,
    ) -> Result<Vec<OnListener>, Option<Box<Diagnostic>>> {
        let Some(Object::Gateway(object)) = self.index.get(gateway).map(|r| &r.object) else {
            let message = format!("there is no Gateway {} to attach to", name_of(gateway));
            let diagnostic = Diagnostic::warning(Code::ReferencedResourceNotFound, message);
            return Err(Some(Box::new(diagnostic.fix("add the Gateway, or correct name and namespace"))));
        };
        if !self.is_our_class(&object.spec.gateway_class_name) {
            return Err(None);
        }
        let labels = self.index.get(&ObjectKey::new(Kind::Namespace, "", &r.key.namespace)).map(|r| &r.meta.labels);
        attach::listeners((r, spec.kind), parent, spec.hostnames, (&gateway.namespace, object), labels).map_err(Some)
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

    /// Whether a ReferenceGrant of namespace `at` lets an object of the Gateway API (its kind and namespace) refer to a
    /// core object (its kind and name) there.
    pub(super) fn is_granted(&self, from: (&str, &str), at: &str, to: (&str, &str)) -> bool {
        let grants = self.gateway_api.grants.get(at).into_iter().flatten();
        let mut specs = grants.filter_map(|key| grant(self.index.get(key)?));
        specs.any(|spec| spec.allows(from, to))
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

fn parent_gateway(parent: &ParentRef, namespace: &Arc<str>) -> Option<ObjectKey> {
    let is_gateway = &*parent.group == GROUP && &*parent.kind == "Gateway";
    let namespace = parent.namespace.as_ref().unwrap_or(namespace);
    is_gateway.then(|| ObjectKey::new(Kind::Gateway, namespace, &parent.name))
}

fn questions(r: &Resource, spec: &Spec<'_>) -> BTreeSet<Question> {
    let own = &r.key.namespace;
    let mut asked: BTreeSet<_> =
        spec.parents.iter().filter_map(|p| parent_service(p, own)).map(Question::Service).collect();
    let gateways: Vec<_> = spec.parents.iter().filter_map(|p| parent_gateway(p, own)).collect();
    if !gateways.is_empty() {
        asked.insert(Question::Namespace(Arc::clone(own)));
        asked.extend(gateways.into_iter().map(Question::Gateway));
    }
    for reference in spec.backends().filter(|reference| backend::is_service(reference)) {
        let namespace = Arc::clone(reference.namespace.as_ref().unwrap_or(own));
        if namespace != *own {
            asked.insert(Question::Grants(Arc::clone(&namespace)));
        }
        asked.insert(Question::Service(ServiceName { namespace, name: Arc::clone(&reference.name) }));
    }
    asked
}
