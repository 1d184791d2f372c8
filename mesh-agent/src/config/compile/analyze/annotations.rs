//! Annotations that nobody knows (IST0108): Istio's are those of istio/api `annotation/annotations.yaml`.

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};

const OURS: &[&str] = &["undermesh.dev/load-balancer", "undermesh.dev/netns", "undermesh.dev/mesh"];

const ISTIO: &[&str] = &[
    "alpha.istio.io/canonical-serviceaccounts",
    "alpha.istio.io/kubernetes-serviceaccounts",
    "ambient.istio.io/bypass-inbound-capture",
    "ambient.istio.io/dns-capture",
    "ambient.istio.io/redirection",
    "ambient.istio.io/waypoint-inbound-binding",
    "galley.istio.io/analyze-suppress",
    "gateway.istio.io/controller-version",
    "gateway.istio.io/managed",
    "gateway.istio.io/name-override",
    "gateway.istio.io/service-account",
    "inject.istio.io/templates",
    "istio.io/autoRegistrationGroup",
    "istio.io/connectedAt",
    "istio.io/dataplane-mode",
    "istio.io/disconnectedAt",
    "istio.io/dry-run",
    "istio.io/ingress-use-waypoint",
    "istio.io/reroute-virtual-interfaces",
    "istio.io/rev",
    "istio.io/tag",
    "istio.io/use-waypoint",
    "istio.io/use-waypoint-canary",
    "istio.io/use-waypoint-canary-namespace",
    "istio.io/use-waypoint-canary-weight",
    "istio.io/use-waypoint-namespace",
    "istio.io/waypoint-for",
    "istio.io/workloadController",
    "networking.istio.io/enable-autoallocate-ip",
    "networking.istio.io/exportTo",
    "networking.istio.io/gatewayPort",
    "networking.istio.io/service-type",
    "networking.istio.io/traffic-distribution",
    "operator.istio.io/component",
    "operator.istio.io/managed",
    "operator.istio.io/version",
    "prometheus.istio.io/merge-metrics",
    "proxy.istio.io/config",
    "proxy.istio.io/overrides",
    "readiness.status.sidecar.istio.io/applicationPorts",
    "readiness.status.sidecar.istio.io/failureThreshold",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "security.istio.io/tlsMode",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "service.istio.io/workload-name",
    "sidecar.istio.io/agentLogLevel",
    "sidecar.istio.io/bootstrapOverride",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/discoveryAddress",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/inject",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyImageType",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/statsCompression",
    "sidecar.istio.io/statsEvictionInterval",
    "sidecar.istio.io/statsFlushInterval",
    "sidecar.istio.io/statsHistogramBins",
    "sidecar.istio.io/statsHistogramBuckets",
    "sidecar.istio.io/statsInclusionPrefixes",
    "sidecar.istio.io/statsInclusionRegexps",
    "sidecar.istio.io/statsInclusionSuffixes",
    "sidecar.istio.io/status",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
    "status.sidecar.istio.io/port",
    "topology.istio.io/cluster",
    "topology.istio.io/controlPlaneClusters",
    "topology.istio.io/locality",
    "topology.istio.io/network",
    "topology.istio.io/subzone",
    "traffic.istio.io/nodeSelector",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
];

pub(super) fn analyze(world: &mut World<'_>) {
    for r in world.objects.clone() {
        for name in r.meta.annotations.keys() {
            let domain = name.split('/').next().unwrap_or("");
            let istio = domain == "istio.io" || domain.ends_with(".istio.io");
            let ours = domain == "undermesh.dev" || domain.ends_with(".undermesh.dev");
            let known = if ours { OURS.contains(&&**name) } else { ISTIO.contains(&&**name) };
            if (istio || ours) && !known {
                let diagnostic =
                    Diagnostic::warning(Code::UnknownAnnotation, format!("{name} is no annotation we know"));
                world.say(r, diagnostic, format!("metadata.annotations[{name}]"), "correct its name, or remove it");
            }
        }
    }
}
