//! Reads the Kubernetes YAML people have and turns it into what the lab can bring up: Services, and sets of pods.
//!
//! Invariant: pure except for [`Manifest::load`]. A document that cannot be used is named in `notes`, never dropped
//! in silence; kinds the lab itself does not act on are kept in `other` and handed to the agent as they are.

mod gateway;
mod podset;
mod service;

pub use gateway::behind;
pub use podset::{Container, ContainerPort, PodSet};
pub use service::{Service, ServicePort, TargetPort};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything a set of files asks for.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Name to labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub services: Vec<Service>,
    pub pod_sets: Vec<PodSet>,
    /// Objects for the agent alone, with their namespaces filled in.
    pub other: Vec<Value>,
    /// What was left out and why, a sentence each.
    pub notes: Vec<String>,
}

impl Manifest {
    /// Reads files, and folders of `.yaml`/`.yml`/`.json` (not below), in name order.
    pub fn load(paths: &[PathBuf]) -> Result<Self> {
        let mut manifest = Self::default();
        for path in paths {
            for file in files_at(path)? {
                let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                manifest.add(&text, &file.display().to_string());
            }
        }
        Ok(manifest)
    }

    /// Adds the documents of one text; `source` is named in notes.
    pub fn add(&mut self, text: &str, source: &str) {
        for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
            match Value::deserialize(document) {
                Ok(Value::Null) => {}
                Ok(object) => self.add_object(object, source),
                Err(error) => {
                    self.notes.push(format!("{source}: document {} is not YAML: {error}", number + 1));
                    // The parser cannot find its way to the next document.
                    return;
                }
            }
        }
    }

    fn add_object(&mut self, mut object: Value, source: &str) {
        let kind = text(&object, "/kind");
        if kind == "List" {
            if let Some(Value::Array(items)) = object.pointer_mut("/items").map(Value::take) {
                items.into_iter().for_each(|item| self.add_object(item, source));
            }
            return;
        }
        if text(&object, "/metadata/name").is_empty() {
            self.notes.push(format!("{source}: a {kind} without metadata.name"));
            return;
        }
        if !is_cluster_scoped(&kind) && text(&object, "/metadata/namespace").is_empty() {
            object["metadata"]["namespace"] = "default".into();
        }
        match kind.as_str() {
            "Namespace" => {
                self.namespaces.insert(text(&object, "/metadata/name"), labels(&object, "/metadata/labels"));
            }
            "Service" => self.services.push(Service::read(object)),
            "Deployment" | "StatefulSet" | "ReplicaSet" | "DaemonSet" | "Pod" => {
                self.pod_sets.push(PodSet::read(&object));
                // The agent reads owners, not templates: the lab writes each pod itself.
            }
            _ => {
                // As its controller would: whoever brings a Gateway brings no pods for it.
                if let Some((pods, service)) = behind(&object) {
                    self.pod_sets.push(pods);
                    self.services.push(service);
                }
                self.other.push(object);
            }
        }
    }
}

/// The string at a JSON pointer, numbers spelled out; empty where there is none.
pub(crate) fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A map of strings at a JSON pointer.
pub(crate) fn labels(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let Some(Value::Object(map)) = object.pointer(pointer) else { return BTreeMap::new() };
    map.iter()
        .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}

pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_cluster_scoped(kind: &str) -> bool {
    matches!(
        kind,
        "Namespace" | "Node" | "ClusterRole" | "ClusterRoleBinding" | "GatewayClass" | "CustomResourceDefinition"
    )
}

fn files_at(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read folder {}", path.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json"))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: echo-grpc}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 18080}
  - {name: grpc, port: 7070, targetPort: 17070}
  - {name: tcp, port: 9090, targetPort: 19090}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo-v1, namespace: echo-grpc}
spec:
  replicas: 3
  template:
    metadata: {labels: {app: echo, version: v1}}
    spec:
      containers:
      - name: app
        ports: [{containerPort: 17070}, {containerPort: 17171}, {containerPort: 3333, name: tcp-health-port}]
---
# nothing
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec: {}
---
kind: [
"#;

    #[test]
    fn services_decide_what_a_container_port_speaks() {
        let mut manifest = Manifest::default();
        manifest.add(ECHO, "echo.yaml");
        let echo = &manifest.pod_sets[0];
        assert_eq!(echo.replicas, 3);
        let ports: Vec<_> = echo.echo_ports(&manifest.services).iter().map(ToString::to_string).collect();
        let want = ["tcp-health-port:tcp:3333", ":grpc:17070", ":detect:17171", "http:http:18080", "tcp:tcp:19090"];
        assert_eq!(ports, want);
        assert_eq!(text(&manifest.other[0], "/metadata/namespace"), "default");
        assert_eq!(manifest.notes.len(), 1, "the broken document is named: {:?}", manifest.notes);
        assert!(manifest.notes[0].starts_with("echo.yaml: document 5"));
    }
}
