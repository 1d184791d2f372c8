//! The objects in force and the look-ups that make one change cost what it touches.

use crate::config::resource::{Labels, Object, ObjectKey, Resource};
use crate::snapshot::ServiceName;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

/// Namespace and name of a Pod.
pub(super) type PodName = (Arc<str>, Arc<str>);
type NamespacedLabel = (Arc<str>, Arc<str>, Arc<str>);

pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `creationTimestamp`, then name, then namespace: smaller is older and wins. Hand-written objects have no timestamp
/// and are younger than those an API server has stamped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Age {
    unstamped: bool,
    created: Option<SystemTime>,
    name: Arc<str>,
    namespace: Arc<str>,
}

/// What has to be compiled again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) pods: BTreeSet<PodName>,
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) nodes: BTreeSet<Arc<str>>,
    pub(super) virtual_services: BTreeSet<ObjectKey>,
    pub(super) destination_rules: BTreeSet<ObjectKey>,
    /// HTTPRoutes and GRPCRoutes.
    pub(super) routes: BTreeSet<ObjectKey>,
    pub(super) grants: BTreeSet<ObjectKey>,
    pub(super) service_entries: BTreeSet<ObjectKey>,
    pub(super) request_policies: BTreeSet<ObjectKey>,
    /// Namespaces whose Sidecars changed.
    pub(super) sidecars: BTreeSet<Arc<str>>,
    /// Namespaces whose Telemetry objects changed.
    pub(super) telemetries: BTreeSet<Arc<str>>,
    /// Of both families.
    pub(super) gateways: BTreeSet<ObjectKey>,
    /// Some GatewayClass changed.
    pub(super) classes: bool,
    pub(super) secrets: BTreeSet<ObjectKey>,
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Services whose own object changed, not only their endpoints.
    pub(super) declared: BTreeSet<ServiceName>,
    /// Names whose DNS answer changed.
    pub(super) names: BTreeSet<Arc<str>>,
    pub(super) mesh: bool,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    objects: FxHashMap<ObjectKey, Arc<Resource>>,
    slices: FxHashMap<ServiceName, BTreeMap<Arc<str>, Arc<Resource>>>,
    pods_in: FxHashMap<Arc<str>, BTreeSet<PodName>>,
    pods_on: FxHashMap<Arc<str>, BTreeSet<PodName>>,
    pods_with: FxHashMap<NamespacedLabel, BTreeSet<PodName>>,
    /// Services under the first pair of their selector.
    selecting: FxHashMap<NamespacedLabel, BTreeSet<ServiceName>>,
    /// By namespace: ServiceEntries with a `workloadSelector`, WorkloadEntries, Sidecars, Telemetry objects.
    selecting_entries: FxHashMap<Arc<str>, BTreeSet<ObjectKey>>,
    workload_entries: FxHashMap<Arc<str>, BTreeSet<ObjectKey>>,
    sidecars: FxHashMap<Arc<str>, BTreeSet<ObjectKey>>,
    telemetries: FxHashMap<Arc<str>, BTreeSet<ObjectKey>>,
}

impl Index {
    /// Puts an object in force, or takes it out; marks what has to be compiled again.
    pub(super) fn put(&mut self, key: &ObjectKey, new: Option<&Arc<Resource>>, dirty: &mut Dirty) {
        let old = match new {
            Some(new) => self.objects.insert(key.clone(), Arc::clone(new)),
            None => self.objects.remove(key),
        };
        if let Some(old) = &old {
            self.unlink(old);
            self.mark(old, dirty);
        }
        if let Some(new) = new {
            self.link(new);
            self.mark(new, dirty);
        }
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<Resource>> {
        self.objects.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut Arc<Resource>> {
        self.objects.get_mut(key)
    }

    pub(super) fn slices(&self, service: &ServiceName) -> Option<&BTreeMap<Arc<str>, Arc<Resource>>> {
        self.slices.get(service)
    }

    /// Pods of a namespace with all the labels; none for an empty selector (a Service without one selects nothing).
    pub(super) fn selected<'a>(
        &'a self,
        namespace: &Arc<str>,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a PodName, &'a Arc<Resource>)> {
        let label = |(k, v): (&Arc<str>, &Arc<str>)| (Arc::clone(namespace), Arc::clone(k), Arc::clone(v));
        let buckets = selector.iter().map(|pair| self.pods_with.get(&label(pair)));
        // Where one label has no pod at all, `min` finds that: None sorts first.
        let smallest = buckets.min_by_key(|bucket| bucket.map_or(0, BTreeSet::len)).flatten();
        smallest.into_iter().flatten().filter_map(move |name| {
            let pod = self.objects.get(&pod_key(name))?;
            selects(selector, &pod.meta.labels).then_some((name, pod))
        })
    }

    /// WorkloadEntries of a namespace with all the labels; none for an empty selector.
    pub(super) fn workload_entries<'a>(
        &'a self,
        namespace: &Arc<str>,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let all = self.workload_entries.get(namespace).into_iter().flatten().filter_map(|key| self.objects.get(key));
        all.filter(move |r| !selector.is_empty() && selects(selector, entry_labels(r)))
    }

    /// A namespace's Sidecars, oldest first.
    pub(super) fn sidecars(&self, namespace: &Arc<str>) -> Vec<&Arc<Resource>> {
        self.by_age(&self.sidecars, namespace)
    }

    /// A namespace's Telemetry objects, oldest first.
    pub(super) fn telemetries(&self, namespace: &Arc<str>) -> Vec<&Arc<Resource>> {
        self.by_age(&self.telemetries, namespace)
    }

    fn by_age(&self, of: &FxHashMap<Arc<str>, BTreeSet<ObjectKey>>, namespace: &Arc<str>) -> Vec<&Arc<Resource>> {
        let all = of.get(namespace).into_iter().flatten().filter_map(|key| self.objects.get(key));
        let mut all: Vec<_> = all.collect();
        all.sort_by_cached_key(|r| Age::of(r));
        all
    }

    /// Every object, in no order.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.objects.values()
    }

    /// Marks everything that the mesh's settings go into.
    pub(super) fn mark_all(&self, dirty: &mut Dirty) {
        for r in self.objects.values() {
            match &r.object {
                Object::Service(_)
                | Object::ServiceEntry(_)
                | Object::VirtualService(_)
                | Object::DestinationRule(_)
                | Object::HttpRoute(_)
                | Object::GrpcRoute(_)
                | Object::RequestPolicy(_) => self.mark(r, dirty),
                _ => {}
            }
        }
    }

    fn link(&mut self, r: &Arc<Resource>) {
        let namespace = &r.key.namespace;
        match &r.object {
            Object::Pod(pod) => {
                let name = pod_name(&r.key);
                self.pods_in.entry(Arc::clone(namespace)).or_default().insert(name.clone());
                self.pods_on.entry(Arc::clone(&pod.spec.node_name)).or_default().insert(name.clone());
                for (k, v) in &r.meta.labels {
                    let label = (Arc::clone(namespace), Arc::clone(k), Arc::clone(v));
                    self.pods_with.entry(label).or_default().insert(name.clone());
                }
            }
            Object::Service(service) => {
                if let Some((k, v)) = service.spec.selector.first_key_value() {
                    let label = (Arc::clone(namespace), Arc::clone(k), Arc::clone(v));
                    self.selecting.entry(label).or_default().insert(service_name(&r.key));
                }
            }
            Object::EndpointSlice(_) => {
                if let Some(service) = slice_service(r) {
                    self.slices.entry(service).or_default().insert(Arc::clone(&r.key.name), Arc::clone(r));
                }
            }
            Object::ServiceEntry(entry) if entry.spec.workload_selector.is_some() => {
                self.selecting_entries.entry(Arc::clone(namespace)).or_default().insert(r.key.clone());
            }
            Object::WorkloadEntry(_) => {
                self.workload_entries.entry(Arc::clone(namespace)).or_default().insert(r.key.clone());
            }
            Object::Sidecar(_) => {
                self.sidecars.entry(Arc::clone(namespace)).or_default().insert(r.key.clone());
            }
            Object::Telemetry(_) => {
                self.telemetries.entry(Arc::clone(namespace)).or_default().insert(r.key.clone());
            }
            _ => {}
        }
    }

    fn unlink(&mut self, r: &Resource) {
        let namespace = &r.key.namespace;
        match &r.object {
            Object::Pod(pod) => {
                let name = pod_name(&r.key);
                discard(&mut self.pods_in, namespace, &name);
                discard(&mut self.pods_on, &pod.spec.node_name, &name);
                for (k, v) in &r.meta.labels {
                    discard(&mut self.pods_with, &(Arc::clone(namespace), Arc::clone(k), Arc::clone(v)), &name);
                }
            }
            Object::Service(service) => {
                if let Some((k, v)) = service.spec.selector.first_key_value() {
                    let label = (Arc::clone(namespace), Arc::clone(k), Arc::clone(v));
                    discard(&mut self.selecting, &label, &service_name(&r.key));
                }
            }
            Object::EndpointSlice(_) => {
                if let Some(service) = slice_service(r)
                    && let Some(slices) = self.slices.get_mut(&service)
                {
                    slices.remove(&r.key.name);
                    if slices.is_empty() {
                        self.slices.remove(&service);
                    }
                }
            }
            Object::ServiceEntry(_) => discard(&mut self.selecting_entries, namespace, &r.key),
            Object::WorkloadEntry(_) => discard(&mut self.workload_entries, namespace, &r.key),
            Object::Sidecar(_) => discard(&mut self.sidecars, namespace, &r.key),
            Object::Telemetry(_) => discard(&mut self.telemetries, namespace, &r.key),
            _ => {}
        }
    }

    fn mark(&self, r: &Resource, dirty: &mut Dirty) {
        match &r.object {
            Object::Namespace(_) => {
                dirty.pods.extend(self.pods_in.get(&r.key.name).into_iter().flatten().cloned());
                dirty.namespaces.insert(Arc::clone(&r.key.name));
            }
            Object::Node(_) => {
                dirty.pods.extend(self.pods_on.get(&r.key.name).into_iter().flatten().cloned());
                dirty.nodes.insert(Arc::clone(&r.key.name));
            }
            Object::Pod(_) => {
                dirty.pods.insert(pod_name(&r.key));
                for (k, v) in &r.meta.labels {
                    let label = (Arc::clone(&r.key.namespace), Arc::clone(k), Arc::clone(v));
                    let candidates = self.selecting.get(&label).into_iter().flatten();
                    dirty.services.extend(candidates.filter(|s| self.service_selects(s, &r.meta.labels)).cloned());
                }
                dirty.service_entries.extend(self.entries_selecting(r, &r.meta.labels));
            }
            Object::Service(_) => {
                dirty.services.insert(service_name(&r.key));
                dirty.declared.insert(service_name(&r.key));
            }
            Object::Endpoints(_) => {
                dirty.services.insert(service_name(&r.key));
            }
            Object::ServiceEntry(_) => {
                dirty.service_entries.insert(r.key.clone());
            }
            Object::WorkloadEntry(_) => dirty.service_entries.extend(self.entries_selecting(r, entry_labels(r))),
            Object::Sidecar(_) => {
                dirty.sidecars.insert(Arc::clone(&r.key.namespace));
            }
            Object::Telemetry(_) => {
                dirty.telemetries.insert(Arc::clone(&r.key.namespace));
            }
            Object::RequestPolicy(_) => {
                dirty.request_policies.insert(r.key.clone());
            }
            Object::ConfigMap(_) => {
                dirty.mesh |= &*r.key.name == super::mesh::NAME && &*r.key.namespace == super::mesh::NAMESPACE;
            }
            Object::EndpointSlice(_) => dirty.services.extend(slice_service(r)),
            Object::VirtualService(_) => {
                dirty.virtual_services.insert(r.key.clone());
            }
            Object::DestinationRule(_) => {
                dirty.destination_rules.insert(r.key.clone());
            }
            Object::HttpRoute(_) | Object::GrpcRoute(_) => {
                dirty.routes.insert(r.key.clone());
            }
            Object::ReferenceGrant(_) => {
                dirty.grants.insert(r.key.clone());
            }
            Object::IstioGateway(_) | Object::Gateway(_) => {
                dirty.gateways.insert(r.key.clone());
            }
            Object::GatewayClass(_) => dirty.classes = true,
            Object::Secret(_) => {
                dirty.secrets.insert(r.key.clone());
            }
            Object::Controller(_) => {}
        }
    }

    fn entries_selecting<'a>(&'a self, r: &Resource, labels: &'a Labels) -> impl Iterator<Item = ObjectKey> + use<'a> {
        let entries = self.selecting_entries.get(&r.key.namespace).into_iter().flatten();
        entries.filter(|key| self.entry_selects(key, labels)).cloned()
    }

    fn entry_selects(&self, key: &ObjectKey, labels: &Labels) -> bool {
        let Some(Object::ServiceEntry(entry)) = self.objects.get(key).map(|r| &r.object) else { return false };
        entry.spec.workload_selector.as_ref().is_some_and(|s| selects(&s.labels, labels))
    }

    fn service_selects(&self, name: &ServiceName, labels: &Labels) -> bool {
        let service = self.objects.get(&service_key(name)).map(|r| &r.object);
        matches!(service, Some(Object::Service(service)) if selects(&service.spec.selector, labels))
    }
}

impl Age {
    pub(super) fn of(r: &Resource) -> Self {
        Self {
            unstamped: r.meta.creation_timestamp.is_none(),
            created: r.meta.creation_timestamp,
            name: Arc::clone(&r.key.name),
            namespace: Arc::clone(&r.key.namespace),
        }
    }
}

pub(super) fn pod_key(name: &PodName) -> ObjectKey {
    ObjectKey { kind: crate::config::Kind::Pod, namespace: Arc::clone(&name.0), name: Arc::clone(&name.1) }
}

pub(super) fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: crate::config::Kind::Service,
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
    }
}

pub(super) fn service_name(key: &ObjectKey) -> ServiceName {
    ServiceName { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) }
}

fn pod_name(key: &ObjectKey) -> PodName {
    (Arc::clone(&key.namespace), Arc::clone(&key.name))
}

fn slice_service(r: &Resource) -> Option<ServiceName> {
    let name = r.meta.labels.get(SERVICE_NAME_LABEL)?;
    Some(ServiceName { namespace: Arc::clone(&r.key.namespace), name: Arc::clone(name) })
}

/// A WorkloadEntry's labels are those of its workload.
fn entry_labels(r: &Resource) -> &Labels {
    match &r.object {
        Object::WorkloadEntry(entry) if !entry.spec.labels.is_empty() => &entry.spec.labels,
        _ => &r.meta.labels,
    }
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn discard<K: std::hash::Hash + Eq, V: Ord>(map: &mut FxHashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
