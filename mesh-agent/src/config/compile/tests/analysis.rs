//! Each finding across objects: said where it is so, and not where it is not.

use super::*;

pub(super) fn said(yaml: &str) -> Vec<String> {
    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(yaml), ..Changes::default() });
    compiler.analysis().iter().map(|d| format!("{} {} {}", d.code, d.object.as_ref().unwrap(), d.field)).collect()
}

pub(super) fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  {}\n",
        spec.replace('\n', "\n  ")
    )
}

pub(super) fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: None, selector: {{app: {name}}}, ports: [{ports}]}}\n"
    )
}

pub(super) fn pod(name: &str, labels: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\nstatus: {{podIP: {ip}}}\n"
    )
}

/// A small app in which nothing is wrong.
pub(super) fn good() -> String {
    [
        service("cart", "{name: http, port: 80}, {name: grpc, port: 90}"),
        service("page", "{name: http, port: 80}"),
        pod("cart-1", "app: cart, version: v1", "10.0.0.1"),
        pod("page-1", "app: page", "10.0.0.2"),
        pod("gateway", "app: gateway", "10.0.0.3"),
        istio("Gateway", "front", "selector: {app: gateway}\nservers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]"),
        istio("VirtualService", "page", "hosts: [www.example.com, page]\ngateways: [front, mesh]\nhttp:\n- match: [{uri: {prefix: /cart}}]\n  route: [{destination: {host: cart, subset: v1, port: {number: 80}}}]\n- route: [{destination: {host: page}}]"),
        istio("DestinationRule", "cart", "host: cart\nsubsets: [{name: v1, labels: {version: v1}}]\ntrafficPolicy: {tls: {mode: SIMPLE}}"),
        istio("ServiceEntry", "ext", "hosts: [api.example.org]\nports: [{number: 443, name: tls, protocol: TLS}]\nresolution: DNS"),
        istio("Sidecar", "default", "egress: [{hosts: [./*]}]"),
    ]
    .concat()
    .replace("hosts: [www.example.com, page]", "hosts: [www.example.com]")
}

#[test]
fn nothing_is_said_of_what_is_right() {
    assert_eq!(said(&good()), [""; 0]);
}

#[test]
fn missing_hosts_subsets_ports_and_gateways() {
    let bad = istio(
        "VirtualService",
        "bad",
        "hosts: [a.example.com]\ngateways: [other/gone, front]\nhttp:\n- route: [{destination: {host: nobody}}, {destination: {host: cart, subset: v9, port: {number: 80}}}]\n- match: [{port: 1}]\n  route: [{destination: {host: cart}}]\n  mirror: {host: cart, port: {number: 8080}}",
    );
    let rule = istio("DestinationRule", "lost", "host: lost");
    assert_eq!(
        said(&format!("{}{bad}{rule}", good())),
        [
            "IST0101 VirtualService shop/bad spec.gateways[0]",
            "IST0101 VirtualService shop/bad spec.http[0].route[0].destination.host",
            "IST0101 VirtualService shop/bad spec.http[0].route[1].destination.subset",
            "IST0101 VirtualService shop/bad spec.http[1].mirror.port.number",
            "IST0130 VirtualService shop/bad spec.http[1]",
            "IST0174 DestinationRule shop/lost spec.host",
            "IST0112 VirtualService shop/bad spec.http[1].route[0].destination.port",
        ]
    );
}

#[test]
fn conflicts_of_hosts_and_selectors() {
    let bad = [
        istio("VirtualService", "one", "hosts: [cart]\nhttp: [{route: [{destination: {host: page}}]}]"),
        istio("VirtualService", "two", "hosts: [x, cart.shop.svc.cluster.local]\nhttp: [{route: [{destination: {host: page}}]}]"),
        istio("VirtualService", "three", "hosts: [cart]\nexportTo: [.]\nhttp: [{route: [{destination: {host: page}}]}]"),
        istio("VirtualService", "four", "hosts: [www.other.org]\ngateways: [front]\nhttp: [{route: [{destination: {host: page}}]}]"),
        istio("Gateway", "second", "selector: {app: gateway}\nservers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]"),
        istio("Gateway", "nobody", "selector: {app: nowhere}\nservers: []"),
        istio("Sidecar", "more", "egress: [{hosts: [./*]}]"),
        istio("Sidecar", "s1", "workloadSelector: {labels: {app: cart}}"),
        istio("Sidecar", "s2", "workloadSelector: {labels: {version: v1}}"),
    ]
    .concat();
    assert_eq!(
        said(&format!("{}{bad}", good())),
        [
            "IST0101 Gateway.networking.istio.io shop/nobody spec.selector",
            "IST0109 VirtualService shop/one spec.hosts[0]",
            "IST0109 VirtualService shop/two spec.hosts[1]",
            "IST0110 Sidecar shop/s1 spec.workloadSelector.labels",
            "IST0110 Sidecar shop/s2 spec.workloadSelector.labels",
            "IST0111 Sidecar shop/default spec.workloadSelector",
            "IST0111 Sidecar shop/more spec.workloadSelector",
            "IST0145 Gateway.networking.istio.io shop/front spec.servers[0].hosts",
            "IST0145 Gateway.networking.istio.io shop/second spec.servers[0].hosts",
            "IST0132 VirtualService shop/four spec.gateways[0]",
        ]
    );
}

#[test]
fn unreachable_rules_and_matches() {
    let bad = istio(
        "VirtualService",
        "bad",
        "hosts: [cart]\nhttp:\n- match: [{uri: {prefix: /a}}, {uri: {exact: /a/b}}, {headers: {x: {exact: y}}, uri: {prefix: /a/c}}, {uri: {prefix: /b}, port: 80}]\n  route: [{destination: {host: page}}]\n- match: [{uri: {prefix: /b/c}}]\n  route: [{destination: {host: page}}]\n- route: [{destination: {host: page}}]\n- match: [{uri: {prefix: /z}}]\n  route: [{destination: {host: page}}]",
    );
    assert_eq!(
        said(&format!("{}{bad}", good())),
        [
            "IST0130 VirtualService shop/bad spec.http[3]",
            "IST0131 VirtualService shop/bad spec.http[0].match[1]",
            "IST0131 VirtualService shop/bad spec.http[0].match[2]",
        ]
    );
}

#[test]
fn a_rule_is_hidden_by_one_that_asks_for_less() {
    let hidden = |former: &str, later: &str| {
        let rules = format!(
            "http:\n- match: [{former}]\n  route: [{{destination: {{host: page}}}}]\n- match: [{later}]\n  route: [{{destination: {{host: page}}}}]"
        );
        let found = said(&format!("{}{}", good(), istio("VirtualService", "v", &format!("hosts: [cart]\n{rules}"))));
        found == ["IST0130 VirtualService shop/v spec.http[1]"]
    };
    let get = "method: {exact: GET}";
    for (former, later, wanted) in [
        ("{uri: {prefix: /a}, GET}", "{uri: {prefix: /ab}, GET}", true),
        ("{uri: {prefix: /a}, GET}", "{uri: {exact: /ab}, GET, headers: {x: {exact: y}}}", true),
        ("{headers: {x: {exact: y}}}", "{uri: {prefix: /a}, headers: {x: {exact: y}, z: {}}}", true),
        ("{uri: {prefix: /a}, GET}", "{uri: {prefix: /ab}}", false),
        ("{uri: {prefix: /a}, GET}", "{uri: {prefix: /ab}, method: {exact: PUT}}", false),
        ("{uri: {prefix: /ab}, GET}", "{uri: {prefix: /a}, GET}", false),
        ("{queryParams: {q: {exact: '1'}}}", "{uri: {prefix: /a}}", false),
    ] {
        assert_eq!(hidden(&former.replace("GET", get), &later.replace("GET", get)), wanted, "{former} {later}");
    }
}

#[test]
fn objects_that_select_or_protect_nothing() {
    let bad = [
        istio("DestinationRule", "bad", "host: page\nsubsets: [{name: v2, labels: {version: v2}}]\ntrafficPolicy:\n  tls: {mode: SIMPLE, insecureSkipVerify: true}\n  portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]"),
        istio("ServiceEntry", "tcp", "hosts: [db.example.org]\nports: [{number: 5432, name: tcp, protocol: TCP}]"),
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {sidecar.istio.io/injekt: 'x', undermesh.dev/oops: 'y', example.com/z: ''}}\n".to_owned(),
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: twice, labels: {istio-injection: enabled, istio.io/rev: a}}\n".to_owned(),
    ]
    .concat();
    assert_eq!(
        said(&format!("{}{bad}", good())),
        [
            "IST0108 Namespace shop metadata.annotations[sidecar.istio.io/injekt]",
            "IST0108 Namespace shop metadata.annotations[undermesh.dev/oops]",
            "IST0123 Namespace twice metadata.labels",
            "IST0128 DestinationRule shop/bad spec.trafficPolicy.tls.insecureSkipVerify",
            "IST0129 DestinationRule shop/bad spec.trafficPolicy.portLevelSettings[0].tls.insecureSkipVerify",
            "IST0134 ServiceEntry shop/tcp spec.ports[0]",
            "IST0167 Sidecar shop/default ",
            "IST0173 DestinationRule shop/bad spec.subsets[0].labels",
            "IST0102 Namespace shop metadata.labels",
        ]
    );
}

pub(super) fn deployment(name: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{template: {{metadata: {{labels: {{{labels}}}}}, spec: {{containers: []}}}}}}\n"
    )
}

#[test]
fn gateways_that_share_pods_certificates_or_miss_their_service() {
    let gateway = |name: &str, selector: &str, port: u16, host: &str| {
        let tls = "tls: {mode: SIMPLE, credentialName: cert}";
        let server = format!("{{port: {{number: {port}, name: https, protocol: HTTPS}}, hosts: [{host}], {tls}}}");
        istio("Gateway", name, &format!("selector: {{{selector}}}\nservers: [{server}]"))
    };
    let edge = deployment("edge", "app: edge, tier: front");
    let one = gateway("one", "app: edge", 443, "a.example.com");
    let apart = gateway("apart", "app: other", 443, "a.example.com") + &pod("other", "app: other", "10.0.0.9");
    assert_eq!(said(&format!("{edge}{one}{apart}")), [""; 0]);
    // One selector is the other's part, and a pod has both.
    let rival = gateway("two", "app: edge, tier: front", 443, "a.example.com");
    assert_eq!(
        said(&format!("{edge}{one}{rival}")),
        [
            "IST0145 Gateway.networking.istio.io shop/one spec.servers[0].hosts",
            "IST0145 Gateway.networking.istio.io shop/two spec.servers[0].hosts",
        ]
    );
    let cousin = gateway("two", "tier: front", 443, "b.example.com");
    assert_eq!(
        said(&format!("{edge}{one}{cousin}")),
        [
            "IST0138 Gateway.networking.istio.io shop/one spec.servers[0].tls",
            "IST0138 Gateway.networking.istio.io shop/two spec.servers[0].tls",
        ]
    );
    let front = service("edge", "{name: https, port: 443, targetPort: 8443}");
    assert_eq!(said(&format!("{edge}{one}{front}")), [""; 0]);
    let front = service("edge", "{name: https, port: 8443}");
    let found = said(&format!("{edge}{one}{front}"));
    assert_eq!(found, ["IST0162 Gateway.networking.istio.io shop/one spec.servers[0].port.number"]);
    let named = service("edge", "{name: https, port: 1, targetPort: https}");
    assert_eq!(said(&format!("{edge}{one}{named}")), [""; 0], "which number a name is, only the pods know");
    // A gateway has one of two hosts, another one the other: both are needed.
    let route = |hosts: &str, gateways: &str| {
        let rule = "http: [{directResponse: {status: 200}}]";
        istio("VirtualService", "v", &format!("hosts: [{hosts}]\ngateways: [{gateways}]\n{rule}"))
    };
    let other = gateway("b", "app: other", 443, "b.example.com") + &pod("other", "app: other", "10.0.0.9");
    assert_eq!(said(&format!("{edge}{one}{other}{}", route("a.example.com, b.example.com", "one, b"))), [""; 0]);
    let found =
        said(&format!("{edge}{one}{other}{}", route("a.example.com", "one, b, x-istio-autogenerated-k8s-gateway-y")));
    assert_eq!(
        found,
        ["IST0132 VirtualService shop/v spec.gateways[1]", "IST0165 VirtualService shop/v spec.gateways[2]"]
    );
}

#[test]
fn telemetries_and_sidecars_that_contest_or_miss_their_pods() {
    let telemetry = |name: &str, selector: &str| {
        let object = istio("Telemetry", name, &format!("{selector}\naccessLogging: [{{disabled: true}}]"));
        object.replace("networking.istio.io", "telemetry.istio.io")
    };
    let bad = [
        pod("cart", "app: cart, version: v1", "10.0.0.1"),
        telemetry("a", "selector: {matchLabels: {app: cart}}"),
        telemetry("b", "selector: {matchLabels: {version: v1}}"),
        telemetry("c", "selector: {matchLabels: {app: nobody}}"),
        telemetry("d", "tracing: []"),
        telemetry("e", "metrics: []"),
        telemetry("f", "targetRefs: [{kind: Gateway, name: x, group: gateway.networking.k8s.io}]"),
        istio("Sidecar", "s", "workloadSelector: {labels: {app: nobody}}\negress: [{hosts: [./*]}]"),
    ]
    .concat();
    assert_eq!(
        said(&bad),
        [
            "IST0101 Sidecar shop/s spec.workloadSelector.labels",
            "IST0101 Telemetry shop/c spec.selector.matchLabels",
            "IST0159 Telemetry shop/a spec.selector.matchLabels",
            "IST0159 Telemetry shop/b spec.selector.matchLabels",
            "IST0160 Telemetry shop/d spec.selector",
            "IST0160 Telemetry shop/e spec.selector",
        ]
    );
}

#[test]
fn namespaces_with_more_than_one_word_about_the_mesh() {
    let namespace = |name: &str, labels: &str| {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
    };
    let all = [
        namespace("a", "istio-injection: enabled, istio.io/dataplane-mode: ambient"),
        namespace("b", "istio.io/rev: x, istio.io/dataplane-mode: ambient"),
        namespace("c", "istio-injection: disabled, istio.io/rev: x"),
        namespace("d", "istio.io/dataplane-mode: ambient"),
    ];
    assert_eq!(said(&all.concat()), ["IST0123 Namespace a metadata.labels", "IST0123 Namespace b metadata.labels"]);
}

#[test]
fn what_two_objects_say_of_one_port() {
    let entry = |name: &str, protocol: &str, to: &str| {
        istio(
            "ServiceEntry",
            name,
            &format!(
                "hosts: [api.example.org]\nexportTo: [{to}]\nports: [{{number: 443, name: p, protocol: {protocol}}}]\nresolution: DNS"
            ),
        )
    };
    let both = entry("a", "TLS", "'*'") + &entry("b", "HTTP", "elsewhere");
    assert_eq!(
        said(&both),
        ["IST0177 ServiceEntry shop/a spec.ports[0].protocol", "IST0177 ServiceEntry shop/b spec.ports[0].protocol"]
    );
    assert_eq!(said(&(entry("a", "TLS", "here") + &entry("b", "HTTP", "elsewhere"))), [""; 0]);
    assert_eq!(said(&(entry("a", "TLS", "'*'") + &entry("b", "tls", "'*'"))), [""; 0]);
    let second = |ports: &str| service("second", ports).replace("selector: {app: second}", "selector: {tier: x}");
    let cart = deployment("cart", "app: cart, tier: x") + &service("cart", "{name: http, port: 80, targetPort: 8080}");
    assert_eq!(said(&format!("{cart}{}", second("{name: http, port: 80, targetPort: 8080}"))), [""; 0]);
    let found = said(&format!("{cart}{}", second("{name: tcp, port: 80, targetPort: 9}")));
    assert_eq!(found, ["IST0116 Deployment shop/cart spec.template.metadata.labels"]);
    let found = said(&format!("{cart}{}", second("{name: http, port: 81, targetPort: 8080}")));
    assert_eq!(found, ["IST0137 Deployment shop/cart spec.template.metadata.labels"]);
}

#[test]
fn subsets_are_looked_for_among_the_pods_that_are_to_be() {
    let rule = |labels: &str| {
        istio("DestinationRule", "r", &format!("host: cart\nsubsets: [{{name: v, labels: {{{labels}}}}}]"))
    };
    let app = service("cart", "{name: http, port: 80}") + &deployment("cart-v1", "app: cart, version: v1");
    assert_eq!(said(&format!("{app}{}", rule("version: v1"))), [""; 0]);
    assert_eq!(said(&format!("{app}{}", rule("topology.kubernetes.io/region: eu, version: v1"))), [""; 0], "who knows");
    let found = said(&format!("{app}{}", rule("version: v2")));
    assert_eq!(found, ["IST0173 DestinationRule shop/r spec.subsets[0].labels"]);
}

#[test]
fn rules_about_connections_that_nothing_reaches() {
    let to = "route: [{destination: {host: page, port: {number: 80}}}]";
    let tcp = |name: &str, matches: &[&str]| {
        let rules: Vec<String> = matches.iter().map(|m| format!("- match: [{m}]\n  {to}")).collect();
        istio("VirtualService", name, &format!("hosts: [cart, a.example.org]\nKIND:\n{}", rules.join("\n")))
    };
    let bad = [
        tcp(
            "a",
            &[
                "{port: 1}, {destinationSubnets: [10.0.0.0/8]}",
                "{port: 2}, {port: 1}",
                "{destinationSubnets: [10.1.0.0/16]}",
            ],
        )
        .replace("KIND", "tcp"),
        tcp(
            "b",
            &[
                "{sniHosts: [a.example.org]}",
                "{sniHosts: [a.example.org], port: 443}",
                "{sniHosts: [cart.shop.svc.cluster.local]}",
            ],
        )
        .replace("KIND", "tls"),
    ]
    .concat();
    let of_rules: Vec<_> = said(&format!("{}{bad}", good())).into_iter().filter(|s| s.starts_with("IST013")).collect();
    assert_eq!(
        of_rules,
        [
            "IST0130 VirtualService shop/a spec.tcp[2]",
            "IST0130 VirtualService shop/b spec.tls[1]",
            "IST0131 VirtualService shop/a spec.tcp[1].match[1]",
        ]
    );
}
