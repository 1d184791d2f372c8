use super::*;

fn read_text(text: &str) -> Parsed {
    parse(&Path::new("t.yaml").into(), text)
}

fn lines(parsed: &Parsed) -> Vec<String> {
    parsed.diagnostics.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: good\n";

#[test]
fn one_malformed_document_leaves_its_neighbours() {
    let parsed = read_text(&format!("{GOOD}---\na: [1\nb: }}\n---\n{GOOD}"));
    assert_eq!(parsed.resources.len(), 2);
    assert_eq!(parsed.resources[1].place.line, 9);
    assert_eq!(parsed.diagnostics.len(), 1);
    assert!(parsed.unnamed);
    let line = parsed.diagnostics[0].to_string();
    assert!(line.starts_with("error UM0002 t.yaml:7: malformed"), "{line}");
}

#[test]
fn wrong_types_name_field_line_and_fix() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    version: 1.0\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec:\n  ports:\n  - name: http\n    port: eighty\n";
    let parsed = read_text(text);
    assert_eq!(parsed.broken.len(), 2);
    assert_eq!(
        lines(&parsed),
        [
            "error UM0006 t.yaml:6 Service default/a metadata.labels.version: invalid type: floating point `1.0`, expected a string; the object is not in force. Fix: put the value in quotes",
            "error UM0006 t.yaml:14 Service default/b spec.ports[0].port: invalid type: string \"eighty\", expected i64; the object is not in force. Fix: write a number from 1 to 65535, without quotes",
        ]
    );
}

#[test]
fn lists_json_and_nulls_are_read() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: p, namespace: x, labels: null}\n";
    let parsed = read_text(list);
    assert_eq!(lines(&parsed), [""; 0]);
    let keys: Vec<_> = parsed.resources.iter().map(|r| (r.key.to_string(), r.place.line)).collect();
    assert_eq!(keys, [("Service default/a".to_owned(), 4), ("Pod x/p".to_owned(), 7)]);

    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}";
    let parsed = read_text(json);
    assert_eq!(parsed.resources[0].key.to_string(), "Node n");
    // A List's bad item does not take down its neighbours, nor hide its line.
    let parsed = read_text(&list.replace("{name: a}", "{name: a, labels: [1]}"));
    assert_eq!(parsed.resources.len(), 1);
    assert_eq!(parsed.diagnostics[0].field, "metadata.labels");
    assert_eq!(parsed.diagnostics[0].line, Some(6));
}

#[test]
fn kinds_we_do_not_read_are_named_once() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: v}\n---\napiVersion: v1\nkind: service\nmetadata: {name: s}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\nhello: world\n---\napiVersion: v1\nkind: Pod\nmetadata: {}\n";
    let parsed = read_text(text);
    let codes: Vec<_> = parsed.diagnostics.iter().map(|d| d.code.id()).collect();
    assert_eq!(codes, ["UM0004", "UM0005", "UM0003", "UM0008"]);
    assert!(parsed.diagnostics[1].fix.contains("kind: Service"));
    assert_eq!(parsed.diagnostics[2].line, Some(13));
}

#[test]
fn hash_ignores_place_and_key_order() {
    let a = read_text("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\n");
    let b = read_text("# moved\n\nkind: Service\napiVersion: v1\nmetadata: {namespace: b, name: a}\n");
    assert_eq!(a.resources[0].hash, b.resources[0].hash);
    assert_ne!(a.resources[0].place, b.resources[0].place);
}

#[test]
fn fields_without_effect_and_envoy_filters_are_named() {
    let text = "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n  - match:\n    - statPrefix: x\n      headers:\n        end-user: {exakt: jason}\n    timeout: 1.5s\n    mirror_percent: 3\n---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: w}\nspec: {http: [{timeout: 5}]}\n";
    let parsed = read_text(text);
    assert_eq!(parsed.resources.len(), 1);
    assert_eq!(
        lines(&parsed),
        [
            "warning UM0110 t.yaml:8 VirtualService default/v spec.http[0].match[0].statPrefix: the field has no effect here: routes have metrics by their own names. Fix: remove it if it is not needed",
            "warning UM0007 t.yaml:9 VirtualService default/v spec.http[0].match[0].headers[end-user].exakt: unknown field; it has no effect. Fix: did you mean exact?",
            "warning UM0007 t.yaml:12 VirtualService default/v spec.http[0].mirror_percent: unknown field; it has no effect. Fix: did you mean mirrorPercent?",
            "warning UM0110 t.yaml:14: EnvoyFilter f (networking.istio.io/v1alpha3): the object has no effect. Fix: for a rate limit write a RequestPolicy (undermesh.dev/v1alpha1); otherwise remove it: there is no Envoy to filter",
            "error UM0006 t.yaml:21 VirtualService default/w spec.http[0].timeout: invalid type: integer `5`, expected a string; the object is not in force. Fix: put the value in quotes",
        ]
    );
}

#[test]
fn objects_of_the_gateway_api_are_read() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules:
  - matches:
    - {path: {type: Exact, value: /a}, headers: [{name: X-User, value: jason}], method: GET}
    filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, fraction: {numerator: 1}}}
    timeouts: {request: 1h30m, backendRequest: 500ms}
    retry: {codes: [503], backoff: 10ms}
    sessionPersistence: {sessionName: s}
    nope: 1
";
    let parsed = read_text(text);
    let said: Vec<_> = parsed.diagnostics.iter().map(|d| (d.code.id(), d.field.as_str())).collect();
    assert_eq!(said, [("UM0110", "spec.rules[0].sessionPersistence"), ("UM0007", "spec.rules[0].nope")]);
    let Object::HttpRoute(route) = &parsed.resources[0].object else { panic!("{parsed:?}") };
    let rule = &route.spec.rules[0];
    assert_eq!(rule.timeouts.request.unwrap().0.as_secs(), 5400);
    assert_eq!(rule.filters[0].request_redirect.as_ref().unwrap().status_code, 302);
    assert_eq!(rule.filters[1].request_mirror.as_ref().unwrap().fraction.unwrap().denominator, 100);
    assert_eq!((&*route.spec.parent_refs[0].group, route.spec.parent_refs[0].port), ("", Some(80)));
}

#[test]
fn what_the_gateway_api_validates_is_an_error_here() {
    for (field, value) in [
        ("timeouts", "{request: 1.5s}"),
        ("retry", "{codes: [200]}"),
        ("filters", "[{type: RequestRedirect, requestRedirect: {statusCode: 200}}]"),
        ("filters", "[{type: RequestHeaderModifier, requestHeaderModifier: {remove: ['a b']}}]"),
        ("filters", "[{type: RequestMirror, requestMirror: {backendRef: {name: a}, percent: 101}}]"),
        ("backendRefs", "[{name: a, weight: -1}]"),
        ("matches", "[{path: {type: Glob, value: /}}]"),
    ] {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  rules:\n  - {field}: {value}\n"
        );
        let parsed = read_text(&text);
        assert!(parsed.resources.is_empty(), "{value}");
        assert_eq!(parsed.diagnostics[0].code.id(), "UM0006", "{value}");
        assert!(parsed.diagnostics[0].field.starts_with(&format!("spec.rules[0].{field}")), "{:?}", parsed.diagnostics);
    }
}

#[test]
fn a_secrets_values_are_nowhere_printed() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, annotations: {kubectl.kubernetes.io/last-applied-configuration: hunter2}}\ntype: kubernetes.io/tls\nstringData: {tls.key: hunter2}\nsuprise: 1\n";
    let parsed = read_text(text);
    assert_eq!(parsed.resources.len(), 1);
    assert!(!format!("{parsed:?}").contains("hunter2"));
}
