//! A world made of files, without an agent and without a cluster.
//!
//! Files are what people write, not what a cluster makes of it: Deployments without pods, Services without addresses,
//! Gateways without gateway pods. What Kubernetes would add is added here, with addresses that nobody has
//! (198.18.0.0/15, RFC 2544); what the files do say is never touched.

use crate::config::compile::{Compiler, GATEWAY_NAME_LABEL, MESH_LABEL, NETNS_ANNOTATION, Settings};
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use crate::config::resource::{Labels, Meta, Namespace, OwnerReference, Pod, PodCondition, PodIp, PodStatus};
use crate::config::source::FileSource;
use crate::config::{Changes, Code, Diagnostic};
use crate::snapshot::{Snapshot, is_subset};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// What a folder of YAML compiles to.
#[derive(Debug)]
pub struct Offline {
    pub compiler: Compiler,
    pub snapshot: Arc<Snapshot>,
    /// Files that could not be read, and objects that are not in force.
    pub findings: Vec<Diagnostic>,
    /// What was added to the files' objects, a sentence each.
    pub notes: Vec<String>,
}

/// Pods of one controller: enough to see shares, few enough to read.
const MOST_REPLICAS: u32 = 100;
const PODS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SERVICES: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
const NAMES: Ipv4Addr = Ipv4Addr::new(198, 19, 128, 0);

/// Reads and compiles files and folders.
///
/// # Errors
/// The findings about files that are not there or cannot be read.
pub fn load(paths: &[PathBuf], cluster_domain: &str) -> Result<Offline, Vec<Diagnostic>> {
    let scan = FileSource::new(paths.to_vec()).scan();
    let unreadable: Vec<_> = scan.diagnostics.iter().filter(|d| d.code == Code::Unreadable).cloned().collect();
    if !unreadable.is_empty() {
        return Err(unreadable);
    }
    let mut objects = scan.changes.upserts;
    let mut notes = play_cluster(&mut objects);
    let mut compiler = Compiler::new(Settings { node: "".into(), cluster_domain: cluster_domain.into() });
    let mut update = compiler.apply(Changes { upserts: objects, ..Changes::default() });
    let mut names: Vec<Arc<str>> = compiler.names().cloned().collect();
    if !names.is_empty() {
        names.sort();
        notes.push(format!("DNS is not asked: an address is assumed for {}", names.join(", ")));
        let addresses = (1..).map(|n| Ipv4Addr::from_bits(NAMES.to_bits() + n));
        let resolved = names.into_iter().zip(addresses).map(|(name, ip)| (name, vec![ip.into()])).collect();
        update = compiler.apply(Changes { resolved, ..Changes::default() });
    }
    let findings = scan.diagnostics.into_iter().chain(compiler.diagnostics().cloned()).collect();
    Ok(Offline { snapshot: update.snapshot, compiler, findings, notes })
}

/// Adds what a cluster would: the pods of controllers, cluster IPs, and pods for Gateways.
fn play_cluster(objects: &mut Vec<Arc<Resource>>) -> Vec<String> {
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let mut notes = Vec::new();
    let mut addresses = (1..).map(|n| Ipv4Addr::from_bits(PODS.to_bits() + n));
    let mut pods = Vec::new();
    for r in objects.iter() {
        let Object::Controller(controller) = &r.object else { continue };
        let template = &controller.spec.template;
        let owner = OwnerReference { kind: r.key.kind.name().into(), name: Arc::clone(&r.key.name), controller: true };
        let known = objects.iter().filter(|o| o.key.kind == Kind::Pod && o.key.namespace == r.key.namespace);
        if template.metadata.labels.is_empty()
            || known.into_iter().any(|pod| is_subset(&template.metadata.labels, &pod.meta.labels))
        {
            continue;
        }
        for n in 0..controller.replicas().min(MOST_REPLICAS) {
            let meta = Meta {
                name: format!("{}-{n}", r.key.name).into(),
                labels: template.metadata.labels.clone(),
                annotations: template.metadata.annotations.clone(),
                owner_references: vec![owner.clone()],
                ..r.meta.clone()
            };
            let pod = Pod { spec: template.spec.clone(), status: PodStatus::default() };
            pods.extend(addresses.next().map(|ip| running(r, meta, pod, ip)));
        }
    }
    if !pods.is_empty() {
        notes.push(format!("pods are assumed for the files' Deployments and other controllers: {}", pods.len()));
    }
    objects.append(&mut pods);
    let mut served = Vec::new();
    for r in objects.iter() {
        let (labels, namespace) = match &r.object {
            Object::IstioGateway(gateway) => (gateway.spec.selector.clone(), None),
            Object::Gateway(_) => {
                ([(GATEWAY_NAME_LABEL.into(), Arc::clone(&r.key.name))].into(), Some(&r.key.namespace))
            }
            _ => continue,
        };
        let all = objects.iter().chain(&served);
        if !labels.is_empty() && !all.into_iter().any(|pod| is_pod_of(pod, &labels, namespace)) {
            let (name, ip) = (format!("{}-gateway", r.key.name), addresses.next());
            notes.push(format!("a pod is assumed for {}: the files have none with the labels it selects", r.key));
            let annotations = [(MESH_LABEL.into(), "enabled".into())].into();
            let meta = Meta { name: name.into(), labels, annotations, owner_references: Vec::new(), ..r.meta.clone() };
            served.extend(ip.map(|ip| running(r, meta, Pod::default(), ip)));
        }
    }
    objects.append(&mut served);
    notes.extend(number_services(objects));
    notes.extend(enrol(objects));
    notes
}

/// Puts pods in the mesh unless the files say otherwise: their network namespaces stand in no file, and their Namespaces
/// in few.
fn enrol(objects: &mut Vec<Arc<Resource>>) -> Option<String> {
    let defined: BTreeSet<Arc<str>> = objects.iter().filter(is_namespace).map(|r| Arc::clone(&r.key.name)).collect();
    let mut assumed = Vec::new();
    let mut named = BTreeSet::new();
    for r in objects.iter_mut().filter(|r| r.key.kind == Kind::Pod) {
        let annotations = &r.meta.annotations;
        if !annotations.contains_key(NETNS_ANNOTATION) {
            Arc::make_mut(r).meta.annotations.insert(NETNS_ANNOTATION.into(), "/assumed".into());
        }
        let namespace = Arc::clone(&r.key.namespace);
        if !defined.contains(&namespace) && named.insert(Arc::clone(&namespace)) {
            let labels = [(MESH_LABEL.into(), "enabled".into())].into();
            let meta = Meta { name: Arc::clone(&namespace), labels, ..Meta::default() };
            let key = ObjectKey::new(Kind::Namespace, "", &namespace);
            let (object, place) = (Object::Namespace(Namespace::default()), r.place.clone());
            assumed.push(Arc::new(Resource { key, meta, object, place, hash: 0 }));
        }
    }
    objects.append(&mut assumed);
    let named: Vec<&str> = named.iter().map(|name| &**name).collect();
    (!named.is_empty())
        .then(|| format!("the files define no Namespace {}; in the mesh, it is assumed", named.join(", ")))
}

fn is_namespace(r: &&Arc<Resource>) -> bool {
    r.key.kind == Kind::Namespace
}

fn is_pod_of(r: &Arc<Resource>, labels: &Labels, namespace: Option<&Arc<str>>) -> bool {
    r.key.kind == Kind::Pod
        && namespace.is_none_or(|namespace| *namespace == r.key.namespace)
        && is_subset(labels, &r.meta.labels)
}

/// A pod that runs, and stands where `of` does.
fn running(of: &Resource, meta: Meta, mut pod: Pod, ip: Ipv4Addr) -> Arc<Resource> {
    let ready = PodCondition { kind: "Ready".into(), status: "True".into() };
    pod.status = PodStatus {
        phase: "Running".into(),
        pod_ip: "".into(),
        pod_ips: vec![PodIp { ip: ip.to_string().into() }],
        conditions: vec![ready],
    };
    let key = ObjectKey::new(Kind::Pod, &of.key.namespace, &meta.name);
    let hash = u64::from(ip.to_bits());
    Arc::new(Resource { key, meta, object: Object::Pod(Box::new(pod)), place: of.place.clone(), hash })
}

/// Gives a cluster IP to each Service that a cluster would give one.
fn number_services(objects: &mut [Arc<Resource>]) -> Option<String> {
    let mut numbered = BTreeSet::new();
    let mut next = SERVICES.to_bits();
    for r in objects.iter_mut() {
        let Object::Service(service) = &r.object else { continue };
        let spec = &service.spec;
        if spec.cluster_ip.is_empty() && spec.cluster_ips.is_empty() && &*spec.kind != "ExternalName" {
            next += 1;
            let mut service = service.clone();
            service.spec.cluster_ip = Ipv4Addr::from_bits(next).to_string().into();
            numbered.insert(r.key.clone());
            Arc::make_mut(r).object = Object::Service(service);
        }
    }
    (!numbered.is_empty())
        .then(|| format!("addresses are assumed for Services to which the files give none: {}", numbered.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Offline {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        load(&[dir.path().to_owned()], "cluster.local").unwrap()
    }

    const APP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}}}
";

    #[test]
    fn a_cluster_is_played() {
        let world = load_text(APP);
        let service = world.snapshot.services().next().unwrap();
        assert_eq!((service.vips.len(), service.ports[0].endpoints.endpoints.len()), (1, 2));
        assert_eq!(world.notes.len(), 3, "{:?}", world.notes);
        let pod = world.snapshot.workloads().next().unwrap();
        assert_eq!((&*pod.owner.kind, &*pod.owner.name), ("Deployment", "web"));
    }

    #[test]
    fn what_the_files_say_stays() {
        let pod = "
---
apiVersion: v1
kind: Pod
metadata: {name: mine, labels: {app: web}}
status: {podIP: 10.0.0.1}
";
        let world = load_text(&APP.replace("ports:", "clusterIP: 10.96.0.1, ports:")).snapshot;
        assert_eq!(world.services().next().unwrap().vips[0].to_string(), "10.96.0.1");
        let world = load_text(&format!("{APP}{pod}"));
        let names: Vec<_> = world.snapshot.workloads().map(|w| w.key.name.to_string()).collect();
        assert_eq!(names, ["mine"]);
    }

    #[test]
    fn a_gateway_has_a_pod() {
        let world = load_text(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}
",
        );
        let (_, gateway) = world.snapshot.gateways().next().unwrap();
        assert_eq!(&*gateway.names[0], "default/gw");
    }

    #[test]
    fn names_have_addresses() {
        let world = load_text(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
",
        );
        let service = world.snapshot.services().next().unwrap();
        assert_eq!(service.ports[0].endpoints.endpoints[0].addr.to_string(), "198.19.128.1:80");
        assert!(world.notes.iter().any(|note| note.ends_with("for api.example.com")), "{:?}", world.notes);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let findings = load(&["/nowhere/at/all".into()], "cluster.local").unwrap_err();
        assert!(findings[0].to_string().contains("/nowhere/at/all"));
    }
}
