//! What the lab's API server would hold: objects and nothing else. [`State::render`] turns it into the files agents
//! watch, [`State::hosts`] into the pods' `/etc/hosts`.
//!
//! Invariant: pure; the same state renders to the same bytes, so that only what changed is written.

use crate::manifest::{PodSet, Service, text};
use crate::net::PodIps;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

/// `(namespace, name)`
pub(super) type Key = (String, String);

/// What makes an object the same one when it is applied again: group, kind, namespace, name. Versions of a kind are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey([String; 4]);

impl ObjectKey {
    pub(super) fn of(object: &Value) -> Self {
        let api = text(object, "/apiVersion");
        let group = api.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        Self([group, text(object, "/kind"), text(object, "/metadata/namespace"), text(object, "/metadata/name")])
    }

    fn file(&self) -> String {
        let [group, kind, namespace, name] = &self.0;
        format!("{}.{group}-{namespace}-{name}.yaml", kind.to_lowercase())
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub services: BTreeMap<Key, ServiceState>,
    pub pod_sets: BTreeMap<Key, PodSet>,
    pub pods: BTreeMap<Key, PodState>,
    pub other: BTreeMap<ObjectKey, Value>,
}

#[derive(Clone, Debug)]
pub struct ServiceState {
    pub service: Service,
    /// None for a headless or external Service.
    pub ips: Option<PodIps>,
}

#[derive(Clone, Debug)]
pub struct PodState {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ips: PodIps,
    pub netns: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub service_account: String,
    /// Kind and name of the controller, if one made it.
    pub owner: Option<(String, String)>,
    /// Name (may be empty) and number of the container's ports.
    pub ports: Vec<(String, u16)>,
    pub ready: bool,
    /// RFC 3339; set when the pod is asked to end.
    pub deleted_at: Option<String>,
}

impl ServiceState {
    /// The virtual addresses, in the order of the families asked for.
    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let Some(ips) = self.ips else { return Vec::new() };
        let mut all = Vec::new();
        if self.service.ipv4 {
            all.push(ips.v4.into());
        }
        if self.service.ipv6 {
            all.push(ips.v6.into());
        }
        all
    }
}

impl State {
    /// Adds namespaces that objects speak of and nobody wrote down.
    pub(super) fn ensure_namespace(&mut self, name: &str) {
        let labels = || BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        self.namespaces.entry(name.to_owned()).or_insert_with(labels);
    }

    /// Pods behind a Service that can take traffic.
    pub(super) fn ready_pods<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a PodState> {
        self.pods
            .values()
            .filter(|pod| pod.ready && pod.deleted_at.is_none() && service.selects(&pod.namespace, &pod.labels))
    }

    /// File name to YAML.
    pub(super) fn render(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut put = |name: String, object: &Value| {
            // Objects made of strings, numbers, lists and maps always have a YAML form.
            files.insert(name, serde_yaml_ng::to_string(object).unwrap_or_default());
        };
        for (name, labels) in &self.namespaces {
            let object =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
            put(format!("namespace-{name}.yaml"), &object);
        }
        for ((namespace, name), service) in &self.services {
            put(format!("service-{namespace}-{name}.yaml"), &service_object(service));
        }
        for ((namespace, name), pod) in &self.pods {
            put(format!("pod-{namespace}-{name}.yaml"), &pod_object(pod));
        }
        for (key, object) in &self.other {
            put(key.file(), object);
        }
        files
    }

    /// `/etc/hosts` as a pod of `namespace` sees it: every name the cluster's DNS would answer (Kubernetes DNS
    /// specification §2), with the pod's own namespace as the first of the search path.
    pub(super) fn hosts(&self, namespace: &str) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for ((service_ns, name), service) in &self.services {
            let addresses = if service.service.headless {
                self.ready_pods(&service.service).flat_map(|pod| pod.ips.both()).collect()
            } else {
                service.cluster_ips()
            };
            let mut names =
                format!("{name}.{service_ns}.svc.cluster.local {name}.{service_ns}.svc {name}.{service_ns}");
            if service_ns == namespace {
                let _ = write!(names, " {name}");
            }
            for address in addresses {
                let _ = writeln!(text, "{address} {names}");
            }
            if service.service.headless {
                self.stateful_names(&service.service, service_ns, namespace, &mut text);
            }
        }
        text
    }

    /// `web-0.web.ns.svc.cluster.local`: pods with a stable name behind a headless Service.
    fn stateful_names(&self, service: &Service, service_ns: &str, namespace: &str, text: &mut String) {
        for pod in self.ready_pods(service) {
            let host = format!("{}.{}", pod.name, service.name);
            let short = if service_ns == namespace { format!(" {host}") } else { String::new() };
            for address in pod.ips.both() {
                let _ = writeln!(text, "{address} {host}.{service_ns}.svc.cluster.local {host}.{service_ns}{short}");
            }
        }
    }
}

fn service_object(state: &ServiceState) -> Value {
    let mut object = state.service.raw.clone();
    let ips = state.cluster_ips();
    if let (Some(first), false) = (ips.first(), state.service.headless) {
        let families: Vec<_> = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        object["spec"]["clusterIP"] = first.to_string().into();
        object["spec"]["clusterIPs"] = ips.iter().map(ToString::to_string).collect::<Vec<_>>().into();
        object["spec"]["ipFamilies"] = families.into();
    }
    object
}

fn pod_object(pod: &PodState) -> Value {
    let mut annotations = pod.annotations.clone();
    annotations.insert("undermesh.dev/netns".to_owned(), pod.netns.display().to_string());
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|(name, number)| match name.as_str() {
            "" => json!({ "containerPort": number }),
            name => json!({ "name": name, "containerPort": number }),
        })
        .collect();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
            "labels": pod.labels, "annotations": annotations,
        },
        "spec": {
            "nodeName": pod.node, "serviceAccountName": pod.service_account,
            "containers": [{ "name": "app", "image": "undermesh.dev/mesh-app", "ports": ports }],
        },
        "status": {
            "phase": "Running",
            "podIP": pod.ips.v4.to_string(),
            "podIPs": pod.ips.both().map(|ip| json!({ "ip": ip.to_string() })),
            "conditions": [{ "type": "Ready", "status": if pod.ready { "True" } else { "False" } }],
        },
    });
    if let Some((kind, name)) = &pod.owner {
        let api = if kind == "Pod" { "v1" } else { "apps/v1" };
        object["metadata"]["ownerReferences"] = json!([{ "apiVersion": api, "kind": kind, "name": name, "uid": format!("{kind}-{name}"), "controller": true }]);
    }
    if let Some(when) = &pod.deleted_at {
        object["metadata"]["deletionTimestamp"] = when.as_str().into();
        object["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::net::AddressPlan;

    fn state(services: &str) -> State {
        let mut manifest = Manifest::default();
        manifest.add(services, "test");
        let (mut plan, mut state) = (AddressPlan::default(), State::default());
        for service in manifest.services {
            let ips = (!service.headless).then(|| plan.service().unwrap());
            state.services.insert((service.namespace.clone(), service.name.clone()), ServiceState { service, ips });
        }
        for name in ["web-0", "web-1"] {
            let pod = PodState {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                uid: name.to_owned(),
                node: "node-0".to_owned(),
                ips: plan.pod(0).unwrap(),
                netns: "/x".into(),
                labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
                annotations: BTreeMap::new(),
                service_account: "default".to_owned(),
                owner: None,
                ports: vec![(String::new(), 80)],
                ready: name == "web-0",
                deleted_at: None,
            };
            state.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
        }
        state
    }

    const WEB: &str =
        "{kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{port: 80}]}}";

    #[test]
    fn hosts_know_short_names_only_in_their_own_namespace() {
        let state = state(WEB);
        let names = |ns: &str, ip: &str| -> Vec<String> {
            let text = state.hosts(ns);
            let line = text.lines().find(|line| line.starts_with(ip)).unwrap_or_default().to_owned();
            line.split(' ').skip(1).map(str::to_owned).collect()
        };
        let long = ["web.shop.svc.cluster.local", "web.shop.svc", "web.shop"];
        assert_eq!(names("other", "10.96.0.10"), long);
        assert_eq!(names("shop", "fd00:10:96::a"), [&long[..], &["web"]].concat());
    }

    #[test]
    fn headless_services_name_their_ready_pods() {
        let state = state(&WEB.replace("ports:", "clusterIP: None, ports:"));
        let text = state.hosts("shop");
        assert!(text.contains("10.244.0.2 web.shop.svc.cluster.local"), "{text}");
        assert!(text.contains("10.244.0.2 web-0.web.shop.svc.cluster.local"), "{text}");
        assert!(!text.contains("10.244.0.3"), "web-1 is not ready: {text}");
        assert!(state.render()["service-shop-web.yaml"].contains("clusterIP: None"));
    }

    #[test]
    fn an_object_applied_again_replaces_itself_in_any_version() {
        let rule = |api: &str, kind: &str| json!({ "apiVersion": api, "kind": kind, "metadata": { "namespace": "shop", "name": "web" } });
        let key = |api: &str, kind: &str| ObjectKey::of(&rule(api, kind));
        assert_eq!(key("networking.istio.io/v1", "Gateway"), key("networking.istio.io/v1beta1", "Gateway"));
        assert_ne!(key("networking.istio.io/v1", "Gateway"), key("gateway.networking.k8s.io/v1", "Gateway"));
        assert_eq!(key("v1", "Secret").file(), "secret.-shop-web.yaml");
    }

    #[test]
    fn rendered_objects_carry_what_an_api_server_adds() {
        let files = state(WEB).render();
        let service: Value = serde_yaml_ng::from_str(&files["service-shop-web.yaml"]).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::a"]));
        let pod: Value = serde_yaml_ng::from_str(&files["pod-shop-web-1.yaml"]).unwrap();
        assert_eq!(pod["status"]["conditions"][0]["status"], "False");
        assert_eq!(pod["metadata"]["annotations"]["undermesh.dev/netns"], "/x");
    }
}
