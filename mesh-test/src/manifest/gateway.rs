//! What Istio's controller makes of a Gateway of the Gateway API: pods and a Service of its own (GEP-1762).

use super::{PodSet, Service, list, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Classes that are served where no GatewayClass says otherwise.
const CLASSES: [&str; 2] = ["istio", "undermesh"];

/// Deployment and Service of a Gateway, `<name>-<class>`; `None` for anything else, Gateways of other classes, and those
/// with `spec.addresses`, which name pods that exist (Istio's "manual deployment").
pub fn behind(object: &Value) -> Option<(PodSet, Service)> {
    let ours =
        text(object, "/kind") == "Gateway" && text(object, "/apiVersion").starts_with("gateway.networking.k8s.io/");
    let class = text(object, "/spec/gatewayClassName");
    if !ours || !CLASSES.contains(&&*class) || !list(object, "/spec/addresses").is_empty() {
        return None;
    }
    let gateway = text(object, "/metadata/name");
    let labels = json!({
        "gateway.networking.k8s.io/gateway-name": gateway,
        "gateway.networking.k8s.io/gateway-class-name": class,
    });
    let metadata = json!({ "name": format!("{gateway}-{class}"), "namespace": text(object, "/metadata/namespace"), "labels": labels });
    // Listeners of several hosts share a port.
    let mut ports = BTreeMap::new();
    for listener in list(object, "/spec/listeners") {
        let protocol = text(listener, "/protocol").to_lowercase();
        let port = || json!({ "name": text(listener, "/name"), "port": listener["port"], "appProtocol": protocol });
        ports.entry(text(listener, "/port")).or_insert_with(port);
    }
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": { "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "gateway", "image": "auto" }] },
        } },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": { "selector": labels, "ports": ports.into_values().collect::<Vec<_>>() },
    });
    Some((PodSet::read(&deployment), Service::read(service)))
}

#[cfg(test)]
mod tests {
    use crate::manifest::Manifest;

    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: istio
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example.com}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.example.com}
  - {name: http, port: 80, protocol: HTTP}
";

    #[test]
    fn a_gateway_has_pods_and_a_service_of_its_own() {
        let mut manifest = Manifest::default();
        manifest.add(GATEWAY, "text");
        let (set, service) = (&manifest.pod_sets[0], &manifest.services[0]);
        assert_eq!((&*set.name, &*set.namespace, set.replicas), ("edge-istio", "shop", 1));
        assert!(service.selects("shop", &set.labels));
        assert_eq!(service.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [443, 80]);
        assert!(set.probes(&manifest.services).is_empty(), "nothing listens there but the mesh");
        assert_eq!(manifest.other.len(), 1, "the Gateway itself is the agent's");
    }

    #[test]
    fn other_gateways_are_left_alone() {
        for (from, to) in [
            ("gatewayClassName: istio", "gatewayClassName: nginx"),
            ("spec:", "spec:\n  addresses: [{value: edge.shop.svc.cluster.local, type: Hostname}]"),
            ("gateway.networking.k8s.io/v1", "networking.istio.io/v1"),
        ] {
            let mut manifest = Manifest::default();
            manifest.add(&GATEWAY.replace(from, to), "text");
            assert!(manifest.pod_sets.is_empty() && manifest.services.is_empty(), "{to}");
        }
    }
}
