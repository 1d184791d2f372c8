//! What a cluster's controllers do: Services get addresses, sets of pods get pods, scaling makes and ends them.

use super::Lab;
use super::builder::PodBuilder;
use super::inner::{Inner, lock};
use super::pod::{Pod, PodInner};
use super::state::{Key, ObjectKey, PodState, ServiceState};
use crate::manifest::{Manifest, PodSet, behind};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A crashed container comes back after this long (a kubelet's first back-off is 10 s; people are watching here).
const RESTART_AFTER: Duration = Duration::from_secs(3);

impl Lab {
    /// Brings up what YAML text asks for; returns when every pod is ready.
    pub fn apply_yaml(&self, yaml: &str) -> Result<()> {
        let mut manifest = Manifest::default();
        manifest.add(yaml, "text");
        anyhow::ensure!(manifest.notes.is_empty(), "{}", manifest.notes.join("; "));
        self.apply(manifest)
    }

    pub fn apply(&self, manifest: Manifest) -> Result<()> {
        self.inner.apply(manifest)
    }

    /// Takes away Services and what the agents alone act on (routes, policies, gateways), as `kubectl delete -f` does; of
    /// pods only those that were made for a Gateway.
    pub fn withdraw(&self, manifest: &Manifest) -> Result<()> {
        {
            let mut state = lock(&self.inner.state);
            for object in &manifest.other {
                state.other.remove(&ObjectKey::of(object));
            }
            for service in &manifest.services {
                state.services.remove(&(service.namespace.clone(), service.name.clone()));
            }
        }
        for (set, _) in manifest.other.iter().filter_map(behind) {
            let key = (set.namespace, set.name);
            self.inner.scale(&key, 0)?;
            lock(&self.inner.state).pod_sets.remove(&key);
        }
        self.inner.publish()
    }

    /// Brings a Deployment to so many pods; returns when new ones are ready and old ones are gone.
    pub fn scale(&self, namespace: &str, name: &str, replicas: usize) -> Result<()> {
        self.inner.scale(&(namespace.to_owned(), name.to_owned()), replicas)
    }

    /// Sets (`Some`) or removes a label of a namespace.
    pub fn label_namespace(&self, namespace: &str, key: &str, value: Option<&str>) -> Result<()> {
        {
            let mut state = lock(&self.inner.state);
            state.ensure_namespace(namespace);
            let labels = state.namespaces.entry(namespace.to_owned()).or_default();
            match value {
                Some(value) => labels.insert(key.to_owned(), value.to_owned()),
                None => labels.remove(key),
            };
        }
        self.inner.publish()
    }

    /// Pods of a Deployment, in name order.
    pub fn pods_of(&self, namespace: &str, set: &str) -> Vec<Pod> {
        self.inner
            .members(&(namespace.to_owned(), set.to_owned()))
            .iter()
            .filter_map(|key| self.inner.handle(key))
            .collect()
    }

    pub fn all_pods(&self) -> Vec<Pod> {
        self.inner.pods().iter().filter_map(|pod| self.inner.handle(&pod.key())).collect()
    }

    pub fn services(&self) -> Vec<ServiceState> {
        lock(&self.inner.state).services.values().cloned().collect()
    }

    /// Names of the sets of pods and how many each should have.
    pub fn pod_sets(&self) -> Vec<((String, String), usize)> {
        lock(&self.inner.state).pod_sets.iter().map(|(key, set)| (key.clone(), set.replicas)).collect()
    }

    /// Is the pod ready, as its Pod object says?
    pub fn is_ready(&self, pod: &Pod) -> bool {
        let key = (pod.namespace().to_owned(), pod.name().to_owned());
        lock(&self.inner.state).pods.get(&key).is_some_and(|pod| pod.ready && pod.deleted_at.is_none())
    }

    /// Is the pod asked to end?
    pub fn is_ending(&self, pod: &Pod) -> bool {
        let key = (pod.namespace().to_owned(), pod.name().to_owned());
        lock(&self.inner.state).pods.get(&key).is_some_and(|pod| pod.deleted_at.is_some())
    }

    pub fn has_ready_pods(&self, service: &crate::manifest::Service) -> bool {
        lock(&self.inner.state).ready_pods(service).next().is_some()
    }
}

impl Inner {
    pub(super) fn apply(self: &Arc<Self>, manifest: Manifest) -> Result<()> {
        let mut wanted = Vec::new();
        {
            let mut state = lock(&self.state);
            for (name, labels) in manifest.namespaces {
                state.ensure_namespace(&name);
                state.namespaces.entry(name).or_default().extend(labels);
            }
            for service in manifest.services {
                state.ensure_namespace(&service.namespace);
                let key = (service.namespace.clone(), service.name.clone());
                let kept = state.services.get(&key).and_then(|former| former.ips);
                let fresh = || lock(&self.plan).service();
                let ips = if service.headless || service.external { None } else { kept.or_else(fresh) };
                state.services.insert(key, ServiceState { service, ips });
            }
            for set in manifest.pod_sets {
                state.ensure_namespace(&set.namespace);
                let key = (set.namespace.clone(), set.name.clone());
                wanted.push((key.clone(), set.replicas));
                state.pod_sets.insert(key, set);
            }
            state.other.extend(manifest.other.into_iter().map(|object| (ObjectKey::of(&object), object)));
        }
        self.write_hosts()?;
        let mut fresh = Vec::new();
        for (key, replicas) in &wanted {
            fresh.extend(self.grow(key, *replicas)?);
        }
        self.publish()?;
        self.await_ready(&fresh)
    }

    pub(super) fn scale(self: &Arc<Self>, key: &Key, replicas: usize) -> Result<()> {
        lock(&self.state)
            .pod_sets
            .get_mut(key)
            .with_context(|| format!("there is no Deployment {}/{}", key.0, key.1))?
            .replicas = replicas;
        let fresh = self.grow(key, replicas)?;
        if !fresh.is_empty() {
            self.publish()?;
            return self.await_ready(&fresh);
        }
        let members = self.members(key);
        self.delete_pods(members.get(replicas..).unwrap_or_default())
    }

    /// Announces the end of pods, sends SIGTERM at once (as the kubelet does, without waiting for anybody to have
    /// heard), gives them their grace, removes them.
    pub(super) fn delete_pods(self: &Arc<Self>, keys: &[Key]) -> Result<()> {
        let pods: Vec<_> = {
            let running = lock(&self.running);
            keys.iter().filter_map(|key| running.get(key).cloned()).collect()
        };
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        for pod in &pods {
            if let Some(state) = lock(&self.state).pods.get_mut(&pod.key()) {
                state.deleted_at = Some(now.clone());
            }
        }
        self.publish()?;
        std::thread::scope(|scope| {
            for pod in &pods {
                scope.spawn(|| {
                    if let Some(mut process) = lock(&pod.process).take() {
                        process.stop(self.grace);
                    }
                });
            }
        });
        for pod in &pods {
            let mut state = lock(&self.state);
            state.pods.remove(&pod.key());
            lock(&self.running).remove(&pod.key());
            drop(state);
        }
        self.publish()?;
        for pod in &pods {
            pod.cgroup.remove()?;
            pod.netns.remove()?;
        }
        Ok(())
    }

    /// Keys of a set's pods that are not ending, oldest first.
    pub(super) fn members(&self, set: &Key) -> Vec<Key> {
        let state = lock(&self.state);
        let owner = state.pod_sets.get(set).map(owner_of);
        let mut all: Vec<_> = state
            .pods
            .values()
            .filter(|pod| pod.namespace == set.0 && pod.deleted_at.is_none() && owner.is_some() && pod.owner == owner)
            .collect();
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        all.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect()
    }

    fn grow(self: &Arc<Self>, key: &Key, replicas: usize) -> Result<Vec<Arc<PodInner>>> {
        let (set, services) = {
            let state = lock(&self.state);
            let set = state.pod_sets.get(key).cloned().with_context(|| format!("no {}/{}", key.0, key.1))?;
            (set, state.services.values().map(|service| service.service.clone()).collect::<Vec<_>>())
        };
        let have = self.members(key).len();
        let program = set.program(&services);
        let mut fresh = Vec::new();
        for ordinal in have..replicas {
            let mut builder = PodBuilder::new(self, &self.pod_name(&set, ordinal)).restart(RESTART_AFTER);
            builder.node = self.emptiest_node();
            builder.args.clone_from(&program);
            builder.probes = set.probes(&services);
            let state = &mut builder.state;
            state.namespace.clone_from(&set.namespace);
            state.labels = labels_of(&set);
            state.annotations.clone_from(&set.annotations);
            state.service_account.clone_from(&set.service_account);
            state.owner = Some(owner_of(&set));
            state.ports = set.container_ports().map(|port| (port.name.clone(), port.number)).collect();
            fresh.push(builder.launch()?);
        }
        Ok(fresh)
    }

    /// The scheduler: the node with the fewest pods.
    fn emptiest_node(&self) -> usize {
        let pods = self.pods();
        let load = |node: &usize| pods.iter().filter(|pod| pod.node == *node).count();
        (0..self.nodes.len()).min_by_key(load).unwrap_or(0)
    }

    fn pod_name(&self, set: &PodSet, ordinal: usize) -> String {
        match set.kind.as_str() {
            "Pod" => set.name.clone(),
            "StatefulSet" => format!("{}-{ordinal}", set.name),
            _ => {
                // Kubernetes' alphabet without vowels, so that no pod has a rude name.
                const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
                let suffix: String = (0..5).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect();
                format!("{}-{}-{suffix}", set.name, template_hash(set))
            }
        }
    }
}

/// A Deployment's pods belong to a ReplicaSet named after the template's hash.
fn owner_of(set: &PodSet) -> (String, String) {
    match set.kind.as_str() {
        "Deployment" => ("ReplicaSet".to_owned(), format!("{}-{}", set.name, template_hash(set))),
        kind => (kind.to_owned(), set.name.clone()),
    }
}

fn labels_of(set: &PodSet) -> BTreeMap<String, String> {
    let mut labels = set.labels.clone();
    if set.kind == "Deployment" {
        labels.insert("pod-template-hash".to_owned(), template_hash(set));
    }
    labels
}

fn template_hash(set: &PodSet) -> String {
    let text = format!("{}/{} {:?}", set.namespace, set.name, set.labels);
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

impl PodState {
    /// What a pod is before anything is known of it.
    pub(super) fn blank() -> Self {
        Self {
            namespace: "default".to_owned(),
            name: String::new(),
            uid: String::new(),
            node: String::new(),
            ips: crate::net::PodIps { v4: std::net::Ipv4Addr::UNSPECIFIED, v6: std::net::Ipv6Addr::UNSPECIFIED },
            netns: std::path::PathBuf::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: "default".to_owned(),
            owner: None,
            ports: Vec::new(),
            ready: false,
            deleted_at: None,
        }
    }
}
