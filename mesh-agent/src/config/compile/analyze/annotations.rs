//! Annotations that nobody knows, that stand where nobody reads them, that are deprecated or malformed (IST0107, IST0108,
//! IST0125, IST0135). Istio's are those of istio/api `annotation/annotations.yaml`: names, `resources`, `deprecated`.

use super::World;
use crate::config::compile::{LOAD_BALANCER_ANNOTATION, MESH_LABEL, NETNS_ANNOTATION};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Labels, Object, Resource};
use ipnet::IpNet;

/// Names, and the kinds they may stand on; no kind: any.
type Placed = (&'static [&'static str], &'static [&'static str]);

const KNOWN: &[Placed] = &[
    (&[], ANYWHERE),
    (&["Pod"], ON_PODS),
    (
        &["Service"],
        &[
            "alpha.istio.io/canonical-serviceaccounts",
            "alpha.istio.io/kubernetes-serviceaccounts",
            "networking.istio.io/exportTo",
            "traffic.istio.io/nodeSelector",
            LOAD_BALANCER_ANNOTATION,
        ],
    ),
    (&["Namespace", "Service", "ServiceEntry"], &["networking.istio.io/traffic-distribution"]),
    (&["Service", "ServiceEntry", "Namespace"], &["istio.io/use-waypoint-canary-weight"]),
    (&["Namespace"], &["topology.istio.io/controlPlaneClusters"]),
    (
        &["Gateway"],
        &["gateway.istio.io/name-override", "gateway.istio.io/service-account", "networking.istio.io/service-type"],
    ),
    (&["GatewayClass", "Gateway"], &["ambient.istio.io/waypoint-inbound-binding"]),
    (
        &["WorkloadEntry"],
        &[
            "istio.io/autoRegistrationGroup",
            "istio.io/connectedAt",
            "istio.io/disconnectedAt",
            "istio.io/workloadController",
        ],
    ),
];

/// Those for any kind, and Istio's labels: as annotations they are at least not misspelt.
const ANYWHERE: &[&str] = &[
    "galley.istio.io/analyze-suppress",
    "gateway.istio.io/controller-version",
    "gateway.istio.io/managed",
    "istio.io/dry-run",
    "istio.io/ingress-use-waypoint",
    "istio.io/tag",
    "istio.io/use-waypoint",
    "istio.io/use-waypoint-canary",
    "istio.io/use-waypoint-canary-namespace",
    "istio.io/use-waypoint-namespace",
    "istio.io/waypoint-for",
    "networking.istio.io/enable-autoallocate-ip",
    "networking.istio.io/gatewayPort",
    "operator.istio.io/component",
    "operator.istio.io/managed",
    "operator.istio.io/version",
    "security.istio.io/tlsMode",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "service.istio.io/workload-name",
    "topology.istio.io/cluster",
    "topology.istio.io/locality",
    "topology.istio.io/network",
    "topology.istio.io/subzone",
];

const ON_PODS: &[&str] = &[
    "ambient.istio.io/bypass-inbound-capture",
    "ambient.istio.io/dns-capture",
    "ambient.istio.io/redirection",
    "inject.istio.io/templates",
    "istio.io/dataplane-mode",
    "istio.io/reroute-virtual-interfaces",
    "istio.io/rev",
    "prometheus.istio.io/merge-metrics",
    "proxy.istio.io/config",
    "proxy.istio.io/overrides",
    "readiness.status.sidecar.istio.io/applicationPorts",
    "readiness.status.sidecar.istio.io/failureThreshold",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
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
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    MESH_LABEL,
    NETNS_ANNOTATION,
];

/// And what to write instead.
const DEPRECATED: &[(&str, &str)] = &[
    ("alpha.istio.io/canonical-serviceaccounts", "remove it"),
    ("alpha.istio.io/kubernetes-serviceaccounts", "remove it"),
    (INJECT, "write a label of this name"),
    ("sidecar.istio.io/discoveryAddress", "remove it"),
    ("sidecar.istio.io/extraStatTags", "write a Telemetry object"),
    ("sidecar.istio.io/statsCompression", "remove it"),
    ("sidecar.istio.io/statsInclusionPrefixes", "write a Telemetry object"),
    ("sidecar.istio.io/statsInclusionRegexps", "write a Telemetry object"),
    ("sidecar.istio.io/statsInclusionSuffixes", "write a Telemetry object"),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", "write istio.io/reroute-virtual-interfaces"),
];

const INJECT: &str = "sidecar.istio.io/inject";

pub(super) fn analyze(world: &mut World<'_>) {
    for r in world.objects.clone() {
        let kind = r.key.kind.api_name();
        one(world, r, kind, "metadata", &r.meta.labels, &r.meta.annotations);
        if let Object::Controller(controller) = &r.object {
            let pod = &controller.spec.template.metadata;
            one(world, r, "Pod", "spec.template.metadata", &pod.labels, &pod.annotations);
        }
    }
}

/// The annotations of an object, or of the pods that it makes.
fn one(world: &mut World<'_>, r: &Resource, kind: &str, at: &str, labels: &Labels, annotations: &Labels) {
    for (name, value) in annotations {
        let domain = name.split('/').next().unwrap_or("");
        if !["istio.io", "undermesh.dev"].iter().any(|of| domain.strip_suffix(of).is_some_and(is_parent)) {
            continue;
        }
        let field = format!("{at}.annotations[{name}]");
        let Some((kinds, _)) = KNOWN.iter().find(|(_, names)| names.contains(&&**name)) else {
            let diagnostic = Diagnostic::warning(Code::UnknownAnnotation, format!("{name} is no annotation we know"));
            world.say(r, diagnostic, field, "correct its name, or remove it");
            continue;
        };
        if !kinds.is_empty() && !kinds.contains(&kind) {
            let (message, fix) = match &r.object {
                Object::Controller(_) if kinds.contains(&"Pod") => (
                    format!("{name} is read from pods, not from a {kind}"),
                    "spec.template.metadata.annotations".into(),
                ),
                _ => (format!("{name} has no effect on a {kind}"), kinds.join(" or ")),
            };
            let diagnostic = Diagnostic::warning(Code::MisplacedAnnotation, message);
            world.say(r, diagnostic, field, format!("move it to {fix}"));
            continue;
        }
        // Who writes the label too knows, and keeps both for older versions.
        let both = &**name == INJECT && labels.contains_key(INJECT);
        if let Some((_, fix)) = DEPRECATED.iter().find(|(of, _)| of == &&**name).filter(|_| !both) {
            let diagnostic = Diagnostic::info(Code::DeprecatedAnnotation, format!("{name} is deprecated in Istio"));
            world.say(r, diagnostic, &field, *fix);
        }
        if let Err(fix) = valid(name, value) {
            let message = format!("{value:?} is not a value of {name}");
            world.say(r, Diagnostic::warning(Code::InvalidAnnotation, message), field, fix);
        }
    }
}

/// What stands before a domain that ours is the end of.
fn is_parent(before: &str) -> bool {
    before.is_empty() || before.ends_with('.')
}

/// As Istio's injector checks them; what `Err` holds is what to write.
fn valid(name: &str, value: &str) -> Result<(), &'static str> {
    let one_of = |all: &[&str], fix| if all.contains(&value) { Ok(()) } else { Err(fix) };
    let each = |good: fn(&str) -> bool, fix| {
        let list = value.split(',').map(str::trim);
        if value.is_empty() || list.into_iter().all(good) { Ok(()) } else { Err(fix) }
    };
    let wildcard = value == "*";
    match name {
        INJECT => one_of(&["true", "false"], "write \"true\" or \"false\""),
        MESH_LABEL => one_of(&["enabled", "true", "disabled", "false"], "write enabled or disabled"),
        "istio.io/dataplane-mode" => one_of(&["ambient", "none"], "write ambient or none"),
        "sidecar.istio.io/interceptionMode" => {
            one_of(&["REDIRECT", "TPROXY", "NONE"], "write REDIRECT, TPROXY or NONE")
        }
        "status.sidecar.istio.io/port" => value.parse::<u16>().map(|_| ()).map_err(|_| "write a port's number, or 0"),
        "traffic.sidecar.istio.io/includeOutboundIPRanges" if wildcard => Ok(()),
        "traffic.sidecar.istio.io/includeOutboundIPRanges" | "traffic.sidecar.istio.io/excludeOutboundIPRanges" => {
            each(|range| range.parse::<IpNet>().is_ok(), "write ranges such as 10.0.0.0/8, separated by commas")
        }
        "traffic.sidecar.istio.io/includeInboundPorts" | "traffic.sidecar.istio.io/includeOutboundPorts"
            if wildcard =>
        {
            Ok(())
        }
        "traffic.sidecar.istio.io/includeInboundPorts"
        | "traffic.sidecar.istio.io/excludeInboundPorts"
        | "traffic.sidecar.istio.io/includeOutboundPorts"
        | "traffic.sidecar.istio.io/excludeOutboundPorts" => {
            each(|port| port.parse::<u16>().is_ok(), "write ports' numbers, separated by commas")
        }
        _ => Ok(()),
    }
}
