//! Findings about what is written and not meant, or without effect: annotations, deprecated fields, rules that a gateway
//! does not have, objects for pods outside the mesh.

use super::analysis::{deployment, good, istio, pod, said, service};
use super::*;

fn annotated(kind: &str, head: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: {head}\nkind: {kind}\nmetadata: {{name: a, namespace: shop, annotations: {{{annotations}}}}}\n"
    )
}

#[test]
fn annotations_stand_where_they_are_read() {
    let web = deployment("web", "app: web");
    let template = |annotation: &str| {
        let inner = format!("metadata: {{annotations: {{{annotation}}}, labels: {{app: web}}}}");
        web.replace("metadata: {labels: {app: web}}", &inner)
    };
    let inject = "sidecar.istio.io/inject: \"true\"";
    for (yaml, expected) in [
        (annotated("Service", "v1", "networking.istio.io/exportTo: ., undermesh.dev/load-balancer: random"), vec![]),
        (annotated("Pod", "v1", "undermesh.dev/mesh: enabled, proxy.istio.io/config: x"), vec![]),
        (annotated("Pod", "v1", "evil-istio.io/x: y, kubectl.kubernetes.io/x: y"), vec![]),
        (
            web.replace("{name: web,", &format!("{{name: web, annotations: {{{inject}}},")),
            vec!["IST0107 Deployment shop/web metadata.annotations[sidecar.istio.io/inject]"],
        ),
        (
            template(inject),
            vec!["IST0135 Deployment shop/web spec.template.metadata.annotations[sidecar.istio.io/inject]"],
        ),
        (
            annotated("Namespace", "v1", "undermesh.dev/mesh: enabled"),
            vec!["IST0107 Namespace a metadata.annotations[undermesh.dev/mesh]"],
        ),
        (
            annotated("Pod", "v1", "networking.istio.io/exportTo: ."),
            vec!["IST0107 Pod shop/a metadata.annotations[networking.istio.io/exportTo]"],
        ),
        (
            annotated("Pod", "v1", "sidecar.istio.io/injekt: x"),
            vec!["IST0108 Pod shop/a metadata.annotations[sidecar.istio.io/injekt]"],
        ),
    ] {
        assert_eq!(said(&yaml), expected, "{yaml}");
    }
    // Who has the label as well knows that the annotation is deprecated.
    let both = annotated("Pod", "v1", inject).replace("annotations:", &format!("labels: {{{inject}}}, annotations:"));
    assert_eq!(said(&both), [""; 0]);
}

#[test]
fn annotations_are_well_formed() {
    for (annotation, good, bad) in [
        ("istio.io/dataplane-mode", "ambient", "sidecar"),
        ("undermesh.dev/mesh", "disabled", "off"),
        ("sidecar.istio.io/interceptionMode", "TPROXY", "tproxy"),
        ("status.sidecar.istio.io/port", "15020", "70000"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*", "all"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/8, fd00::/8", "10.0.0.0/33"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80,443", "80;443"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "", "*"),
    ] {
        let with = |value: &str| said(&annotated("Pod", "v1", &format!("{annotation}: {value:?}")));
        assert_eq!(with(good), [""; 0], "{annotation}: {good}");
        assert_eq!(
            with(bad),
            [format!("IST0125 Pod shop/a metadata.annotations[{annotation}]")],
            "{annotation}: {bad}"
        );
    }
}

#[test]
fn deprecated_fields_are_named() {
    let old = [
        istio(
            "VirtualService",
            "v",
            "hosts: [page]\nhttp:\n- fault: {delay: {percent: 10, fixedDelay: 1s}}\n  corsPolicy: {allowOrigin: ['*']}\n  mirror: {host: cart, port: {number: 80}}\n  mirrorPercent: 5\n  route: [{destination: {host: page}}]",
        ),
        istio(
            "DestinationRule",
            "d",
            "host: page\ntrafficPolicy:\n  loadBalancer: {simple: LEAST_CONN, warmupDurationSecs: 5s}\n  portLevelSettings: [{port: {number: 80}, outlierDetection: {consecutiveErrors: 3}}]\nsubsets: [{name: all, labels: {app: page}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 9}}}}]",
        ),
    ];
    let mut named = said(&format!("{}{}", good(), old.concat()));
    named.sort();
    assert_eq!(
        named,
        [
            "IST0002 DestinationRule shop/d spec.subsets[0].trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
            "IST0002 DestinationRule shop/d spec.trafficPolicy.loadBalancer.simple",
            "IST0002 DestinationRule shop/d spec.trafficPolicy.loadBalancer.warmupDurationSecs",
            "IST0002 DestinationRule shop/d spec.trafficPolicy.portLevelSettings[0].outlierDetection.consecutiveErrors",
            "IST0002 VirtualService shop/v spec.http[0].corsPolicy.allowOrigin",
            "IST0002 VirtualService shop/v spec.http[0].fault.delay.percent",
            "IST0002 VirtualService shop/v spec.http[0].mirrorPercent",
        ]
    );
}

#[test]
fn subsets_of_the_mesh_are_not_a_gateways() {
    let mesh = |gateways: &str| {
        let to = "http: [{route: [{destination: {host: cart, subset: v1, port: {number: 80}}}]}]";
        istio("VirtualService", "versions", &format!("hosts: [cart, cart.example.com]\n{gateways}{to}"))
    };
    let edge = |subset: &str| {
        let to = format!(
            "http: [{{route: [{{destination: {{host: cart.shop.svc.cluster.local, port: {{number: 80}}{subset}}}}}]}}]"
        );
        istio("VirtualService", "edge", &format!("hosts: [x.example.com]\ngateways: [front]\n{to}"))
    };
    let said = |rules: [String; 2]| said(&format!("{}{}", good(), rules.concat()));
    assert_eq!(said([mesh(""), edge("")]), ["IST0140 VirtualService shop/edge spec.http[0].route[0].destination"]);
    assert_eq!(said([mesh(""), edge(", subset: v1")]), [""; 0]);
    assert_eq!(said([mesh("gateways: [mesh, shop/front]\n"), edge("")]), [""; 0]);
}

#[test]
fn objects_for_pods_outside_the_mesh_have_no_effect() {
    let pods = |namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{istio-injection: {namespace}}}}}\n{}{}{}",
            service("page", "{name: http, port: 80}"),
            pod("page-1", "app: page", "10.0.0.1"),
            pod("cart-1", "app: cart, sidecar.istio.io/inject: 'false'", "10.0.0.2"),
        )
    };
    let sidecar =
        |name: &str, selector: &str| istio("Sidecar", name, &format!("{selector}egress: [{{hosts: ['./*']}}]"));
    let all = sidecar("all", "");
    let cart = sidecar("cart", "workloadSelector: {labels: {app: cart}}\n");
    let page = sidecar("page", "workloadSelector: {labels: {app: page}}\n");
    let rules = [all, cart, page].concat();
    let with = |namespace: &str| said(&(pods(namespace) + &rules));
    assert_eq!(with("enabled"), ["IST0167 Sidecar shop/cart "]);
    let unknown = pods("enabled").replace("kind: Namespace", "kind: ServiceAccount") + &rules;
    assert_eq!(said(&unknown), ["IST0167 Sidecar shop/cart "], "who knows what the namespace says");
    assert_eq!(with("disabled"), ["all", "cart", "page"].map(|name| format!("IST0167 Sidecar shop/{name} ")));
}

/// What the object alone shows is found as it is compiled.
#[test]
fn claims_and_logging_without_anybody_behind_them() {
    let found = |yaml: &str| -> Vec<String> {
        let mut compiler = Compiler::new(settings());
        compiler.apply(Changes { upserts: resources(yaml), ..Changes::default() });
        compiler.diagnostics().map(|d| format!("{} {}", d.code, d.field)).filter(|d| d.starts_with("IST")).collect()
    };
    let claim = "hosts: [x.com]\ngateways: [g]\nhttp: [{match: [{headers: {'@request.auth.claims.group': {exact: dev}}}], directResponse: {status: 200}}]";
    assert_eq!(
        found(&istio("VirtualService", "v", claim)),
        ["IST0149 spec.http[0].match[0].headers[@request.auth.claims.group]"]
    );
    let logging = |entry: &str| {
        found(&istio("Telemetry", "t", &format!("accessLogging: [{entry}]")).replace("networking", "telemetry"))
    };
    assert_eq!(logging("{match: {mode: CLIENT}}"), ["IST0157 spec.accessLogging[0].providers"]);
    for works in ["{providers: [{name: envoy}]}", "{disabled: true}", "{filter: {expression: 'response.code >= 500'}}"]
    {
        assert_eq!(logging(works), [""; 0], "{works}");
    }
}
