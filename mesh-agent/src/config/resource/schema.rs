//! Which fields each kind has: Kubernetes' here, the other families' beside their structs.
//!
//! Pod specs and templates are huge and mostly not ours: only `metadata` and the parts below are looked into, so
//! nothing right is ever called wrong. Names are those of Kubernetes 1.36's API reference.

use super::Kind;
use super::fields::{Field, Finding, check, leaf, list, message};
use super::{gateway_api, istio, request_policy};
use serde_yaml_ng::Value;

pub(super) const META: Field = message(
    "metadata",
    &[
        leaf("name"),
        leaf("generateName"),
        leaf("namespace"),
        leaf("selfLink"),
        leaf("uid"),
        leaf("resourceVersion"),
        leaf("generation"),
        leaf("creationTimestamp"),
        leaf("deletionTimestamp"),
        leaf("deletionGracePeriodSeconds"),
        leaf("labels"),
        leaf("annotations"),
        leaf("ownerReferences"),
        leaf("finalizers"),
        leaf("managedFields"),
        leaf("clusterName"),
    ],
);
const VERSION: Field = leaf("apiVersion");
const KIND: Field = leaf("kind");
const STATUS: Field = leaf("status");

/// The fields of an object whose own part is `spec`.
pub(super) const fn object(spec: &'static [Field]) -> [Field; 5] {
    [VERSION, KIND, META, message("spec", spec), STATUS]
}

const OPAQUE: &[Field] = &[VERSION, KIND, META, leaf("spec"), STATUS];
const CONFIG_MAP: &[Field] = &[VERSION, KIND, META, leaf("data"), leaf("binaryData"), leaf("immutable")];
const SERVICE: &[Field] = &object(&[
    leaf("allocateLoadBalancerNodePorts"),
    leaf("clusterIP"),
    leaf("clusterIPs"),
    leaf("externalIPs"),
    leaf("externalName"),
    leaf("externalTrafficPolicy"),
    leaf("healthCheckNodePort"),
    leaf("internalTrafficPolicy"),
    leaf("ipFamilies"),
    leaf("ipFamily"),
    leaf("ipFamilyPolicy"),
    leaf("loadBalancerClass"),
    leaf("loadBalancerIP"),
    leaf("loadBalancerSourceRanges"),
    list("ports", SERVICE_PORT),
    leaf("publishNotReadyAddresses"),
    leaf("selector"),
    leaf("sessionAffinity"),
    leaf("sessionAffinityConfig"),
    leaf("topologyKeys"),
    leaf("trafficDistribution"),
    leaf("type"),
]);
const SERVICE_PORT: &[Field] =
    &[leaf("appProtocol"), leaf("name"), leaf("nodePort"), leaf("port"), leaf("protocol"), leaf("targetPort")];
const ENDPOINTS: &[Field] = &[
    VERSION,
    KIND,
    META,
    list(
        "subsets",
        &[list("addresses", SUBSET_ADDRESS), list("notReadyAddresses", SUBSET_ADDRESS), list("ports", DISCOVERY_PORT)],
    ),
];
const SUBSET_ADDRESS: &[Field] = &[leaf("hostname"), leaf("ip"), leaf("nodeName"), leaf("targetRef")];
const DISCOVERY_PORT: &[Field] = &[leaf("appProtocol"), leaf("name"), leaf("port"), leaf("protocol")];
const ENDPOINT_SLICE: &[Field] = &[
    VERSION,
    KIND,
    META,
    leaf("addressType"),
    list("ports", DISCOVERY_PORT),
    list(
        "endpoints",
        &[
            leaf("addresses"),
            message("conditions", &[leaf("ready"), leaf("serving"), leaf("terminating")]),
            leaf("deprecatedTopology"),
            leaf("hints"),
            leaf("hostname"),
            leaf("nodeName"),
            leaf("targetRef"),
            leaf("zone"),
        ],
    ),
];

const SECRET: &[Field] = &[VERSION, KIND, META, leaf("type"), leaf("immutable"), leaf("data"), leaf("stringData")];

/// Every field of a kind.
pub(crate) fn fields(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Service => SERVICE,
        Kind::Endpoints => ENDPOINTS,
        Kind::EndpointSlice => ENDPOINT_SLICE,
        Kind::VirtualService => istio::virtual_service::FIELDS,
        Kind::DestinationRule => istio::destination_rule::FIELDS,
        Kind::ServiceEntry => istio::service_entry::FIELDS,
        Kind::WorkloadEntry => istio::service_entry::WORKLOAD_ENTRY_FIELDS,
        Kind::Sidecar => istio::sidecar::FIELDS,
        Kind::Telemetry => istio::telemetry::FIELDS,
        Kind::IstioGateway => istio::gateway::FIELDS,
        Kind::ConfigMap => CONFIG_MAP,
        Kind::RequestPolicy => request_policy::FIELDS,
        Kind::GatewayClass => gateway_api::fields::GATEWAY_CLASS,
        Kind::Gateway => gateway_api::fields::GATEWAY,
        Kind::HttpRoute => gateway_api::fields::HTTP_ROUTE,
        Kind::GrpcRoute => gateway_api::fields::GRPC_ROUTE,
        Kind::ReferenceGrant => gateway_api::fields::REFERENCE_GRANT,
        Kind::Secret => SECRET,
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::ReplicaSet
        | Kind::DaemonSet
        | Kind::Job => OPAQUE,
    }
}

/// Every misspelt field of an object, and every field that has no effect here.
pub(crate) fn findings(kind: Kind, object: &Value) -> Vec<Finding> {
    check(fields(kind), object)
}

#[cfg(test)]
mod tests {
    use super::super::fields::What;
    use super::*;

    #[test]
    fn misspelt_fields_are_found_with_what_was_meant() {
        let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\nspec:\n  slector: {app: a}\n  ports:\n  - port: 80\n    targetport: 8080\n    whatever: 1\n";
        let value: Value = serde_yaml_ng::from_str(yaml).unwrap();
        let found = findings(Kind::Service, &value);
        let found: Vec<_> = found.iter().map(|f| (f.path.as_str(), &f.what)).collect();
        assert_eq!(
            found,
            [
                ("metadata.lables", &What::Unknown(Some("labels"))),
                ("spec.slector", &What::Unknown(Some("selector"))),
                ("spec.ports[0].targetport", &What::Unknown(Some("targetPort"))),
                ("spec.ports[0].whatever", &What::Unknown(None)),
            ]
        );
    }
}
