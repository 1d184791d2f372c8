//! Each finding across objects: said where it is so, and not where it is not.

use super::*;

fn said(yaml: &str) -> Vec<String> {
    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(yaml), ..Changes::default() });
    compiler.analysis().iter().map(|d| format!("{} {} {}", d.code, d.object.as_ref().unwrap(), d.field)).collect()
}

fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  {}\n",
        spec.replace('\n', "\n  ")
    )
}

fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: None, selector: {{app: {name}}}, ports: [{ports}]}}\n"
    )
}

fn pod(name: &str, labels: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\nstatus: {{podIP: {ip}}}\n"
    )
}

/// A small app in which nothing is wrong.
fn good() -> String {
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
            "IST0101 DestinationRule shop/lost spec.host",
            "IST0130 VirtualService shop/bad spec.http[1]",
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
            "IST0109 VirtualService shop/two spec.hosts[1]",
            "IST0110 Sidecar shop/s2 spec.workloadSelector.labels",
            "IST0111 Sidecar shop/more spec.workloadSelector",
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
            "IST0127 DestinationRule shop/bad spec.subsets[0].labels",
            "IST0128 DestinationRule shop/bad spec.trafficPolicy.tls.insecureSkipVerify",
            "IST0129 DestinationRule shop/bad spec.trafficPolicy.portLevelSettings[0].tls.insecureSkipVerify",
            "IST0134 ServiceEntry shop/tcp spec.ports[0]",
            "IST0102 Namespace shop metadata.labels",
        ]
    );
}
