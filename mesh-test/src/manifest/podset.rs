//! Deployments and their kin as sets of equal pods.

use super::{Service, TargetPort, labels, list, text};
use crate::apps::demo::behind_image;
use crate::apps::port::{Port, Protocol};
use serde_json::Value;
use std::collections::BTreeMap;

/// Pods of gateways, where the mesh listens and nothing runs: Istio's word for an image that its injection fills in, and
/// Kubernetes' own image of a program that only waits.
fn is_nothing(image: &str) -> bool {
    image == "auto" || image.starts_with("registry.k8s.io/pause:")
}

/// A Deployment, StatefulSet, ReplicaSet, DaemonSet or a bare Pod (a set of one).
#[derive(Clone, Debug, Default)]
pub struct PodSet {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub replicas: usize,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub service_account: String,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub args: Vec<String>,
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    pub name: String,
    pub number: u16,
}

impl PodSet {
    pub fn read(object: &Value) -> Self {
        let kind = text(object, "/kind");
        let pod = if kind == "Pod" { "" } else { "/spec/template" };
        let at = |rest: &str| format!("{pod}{rest}");
        let replicas = if kind == "Pod" { 1 } else { text(object, "/spec/replicas").parse().unwrap_or(1) };
        let account = text(object, &at("/spec/serviceAccountName"));
        Self {
            namespace: text(object, "/metadata/namespace"),
            name: text(object, "/metadata/name"),
            replicas,
            labels: labels(object, &at("/metadata/labels")),
            annotations: labels(object, &at("/metadata/annotations")),
            service_account: if account.is_empty() { "default".to_owned() } else { account },
            containers: list(object, &at("/spec/containers")).iter().map(container).collect(),
            kind,
        }
    }

    /// Every port the echo app opens: the containers' ports and the target ports of the Services in front, with the
    /// Service's word (appProtocol, else the port's name) before the container's.
    pub fn echo_ports(&self, services: &[Service]) -> Vec<Port> {
        let declared = |name: &str, app: &str| {
            let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Protocol::from_kubernetes(set(name).as_deref(), set(app).as_deref())
        };
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        for port in self.container_ports() {
            let (name, protocol) = (port.name.clone(), declared(&port.name, ""));
            ports.insert(port.number, Port { name, protocol, number: port.number });
        }
        for service in services.iter().filter(|s| s.selects(&self.namespace, &self.labels)) {
            for port in service.ports.iter().filter(|port| port.tcp) {
                let Some(number) = self.resolve(&port.target) else { continue };
                let protocol = declared(&port.name, &port.app_protocol);
                let known = ports.entry(number).or_insert_with(|| Port { name: port.name.clone(), protocol, number });
                if protocol != Protocol::Detect {
                    known.protocol = protocol;
                }
            }
        }
        ports.into_values().collect()
    }

    /// What the container runs in the lab: the image's own arguments where the image is one of ours, the stand-in where it
    /// is a well-known demo's, else the echo app.
    pub fn program(&self, services: &[Service]) -> Vec<String> {
        if let Some(ours) = self.containers.iter().find(|c| c.image.starts_with("undermesh/")) {
            return ours.args.clone();
        }
        if let Some(demo) = self.demo(services) {
            return demo;
        }
        let mut ports: Vec<_> = self.app_ports(services).map(|port| port.to_string()).collect();
        if ports.is_empty() {
            // `curl`, `sleep`: clients that people enter by hand. The app wants a port; the kernel finds one.
            ports.push("idle:detect:0".to_owned());
        }
        let mut command = vec!["echo".to_owned()];
        for port in ports {
            command.extend(["--port".to_owned(), port]);
        }
        if let Some(prefix) = self.tcp_prefix() {
            command.extend(["--prefix".to_owned(), prefix.to_owned()]);
        }
        command
    }

    /// `mesh-app demo …` where an image is one of Bookinfo's or Sock Shop's. The image's name tells the version, else the
    /// pod's label.
    fn demo(&self, services: &[Service]) -> Option<Vec<String>> {
        let (service, version) = self.containers.iter().find_map(|container| behind_image(&container.image))?;
        let version = if version.is_empty() { self.labels.get("version").cloned() } else { Some(version) };
        let port = self.echo_ports(services).first()?.number;
        let port = port.to_string();
        let version = version.unwrap_or_else(|| "v1".to_owned());
        Some(["demo", "--service", service, "--version", &version, "--port", &port].map(str::to_owned).to_vec())
    }

    /// Ports that must accept a connection before a pod is ready.
    pub fn probes(&self, services: &[Service]) -> Vec<u16> {
        self.app_ports(services).map(|port| port.number).collect()
    }

    /// None where the mesh itself is what listens.
    fn app_ports(&self, services: &[Service]) -> impl Iterator<Item = Port> {
        let runs = self.containers.iter().any(|container| !is_nothing(&container.image));
        if runs { self.echo_ports(services) } else { Vec::new() }.into_iter()
    }

    /// The number behind a target port.
    pub fn resolve(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self.container_ports().find(|port| port.name == *name).map(|port| port.number),
        }
    }

    /// Istio's tcp-echo-server takes `[ports, prefix]`; its samples tell versions apart by the prefix.
    pub fn tcp_prefix(&self) -> Option<&str> {
        let container = self.containers.iter().find(|container| container.image.contains("tcp-echo-server"))?;
        container.args.get(1).map(String::as_str)
    }

    pub fn container_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.containers.iter().flat_map(|container| &container.ports)
    }
}

fn container(raw: &Value) -> Container {
    let port = |port: &Value| {
        let tcp = matches!(text(port, "/protocol").as_str(), "" | "TCP");
        let number = text(port, "/containerPort").parse().ok().filter(|_| tcp)?;
        Some(ContainerPort { name: text(port, "/name"), number })
    };
    Container {
        name: text(raw, "/name"),
        image: text(raw, "/image"),
        args: list(raw, "/args").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        ports: list(raw, "/ports").iter().filter_map(port).collect(),
    }
}
