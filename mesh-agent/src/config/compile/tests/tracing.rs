//! MeshConfig's tracing.

use super::*;
use crate::config::Severity;
use crate::snapshot::tracing::{CustomTag, Formats, Protocol, Rate, TagValue, TracingSettings};
use std::time::Duration;

/// The settings, and what is said of the fields below `data.mesh`.
fn tracing(mesh: &str) -> (TracingSettings, Vec<(String, Severity)>) {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{indented}"
    );
    let mut compiler = Compiler::new(settings());
    let update = compiler.apply(Changes { upserts: resources(&yaml), ..Changes::default() });
    let said = compiler.diagnostics().map(|d| (d.field.replace("data.mesh: ", ""), d.severity)).collect();
    (update.snapshot.mesh().tracing.clone(), said)
}

const PROVIDERS: &str = "
extensionProviders:
- name: zipkin
  zipkin: {service: tracing/zipkin.istio-system.svc.cluster.local, port: 9411, maxTagLength: 64, timeout: 2s,
    traceContextOption: USE_B3_WITH_W3C_PROPAGATION, headers: [{name: x-token, value: t}]}
- name: otel
  opentelemetry: {service: otel.observability.svc.cluster.local, port: 4317}
- name: otel-http
  opentelemetry: {service: otel, port: 4318, http: {path: /traces, timeout: 1s}}
- name: log
  envoyFileAccessLog: {path: /dev/stdout}
";

#[test]
fn nobody_asks_for_spans() {
    assert_eq!(tracing("accessLogFile: /dev/stdout"), (TracingSettings::default(), Vec::new()));
    assert_eq!(TracingSettings::default().default.collector, None);
}

#[test]
fn providers_as_istios_users_write_them() {
    let mesh = format!(
        "{PROVIDERS}defaultProviders: {{tracing: [otel]}}\ndefaultConfig: {{tracing: {{sampling: 12.5, maxPathTagLength: 99, \
         customTags: {{a: {{literal: {{value: b}}}}, c: {{header: {{name: X-Tenant, defaultValue: none}}}}, \
         d: {{environment: {{name: HOME, defaultValue: e}}}}}}}}}}"
    );
    let (found, said) = tracing(&mesh);
    let info = |field: &str| (field.to_owned(), Severity::Info);
    assert_eq!(
        said,
        [
            info("extensionProviders[3].envoyFileAccessLog"),
            info("defaultConfig.tracing.customTags[d].environment.name"),
        ]
    );
    let names: Vec<_> = found.providers.keys().map(|name| &**name).collect();
    assert_eq!(names, ["otel", "otel-http", "zipkin"]);
    let zipkin = &found.providers["zipkin"];
    assert_eq!((&*zipkin.host, zipkin.port), ("zipkin.istio-system.svc.cluster.local", 9411));
    assert_eq!(zipkin.protocol, Protocol::Zipkin { path: "/api/v2/spans".into() });
    assert_eq!(zipkin.formats, Formats { w3c: true, b3: true, b3_single: false });
    assert_eq!((zipkin.timeout, zipkin.longest_path), (Duration::from_secs(2), Some(64)));
    assert_eq!(zipkin.headers[0].1, "t");
    assert_eq!(found.providers["otel-http"].protocol, Protocol::OtlpHttp { path: "/traces".into() });
    let default = &found.default;
    assert_eq!(default.collector.as_ref(), Some(&found.providers["otel"]));
    assert_eq!(found.providers["otel"].formats, Formats { w3c: true, b3: false, b3_single: false });
    assert_eq!((default.rate, default.longest_path), (Rate::of_percent(12.5).unwrap(), 99));
    let tag = |name: &str, value| CustomTag { name: name.into(), value };
    let header = TagValue::Header { name: http::HeaderName::from_static("x-tenant"), default: Some("none".into()) };
    let literal = |value: &str| TagValue::Literal(value.into());
    assert_eq!(default.tags, [tag("a", literal("b")), tag("c", header), tag("d", literal("e"))]);
}

#[test]
fn the_old_way_and_the_switch() {
    let zipkin = "defaultConfig: {tracing: {zipkin: {address: 'zipkin.istio-system:9411'}}}";
    let (found, said) = tracing(zipkin);
    let collector = found.default.collector.as_ref().unwrap();
    assert_eq!((&*collector.host, collector.port, said), ("zipkin.istio-system", 9411, Vec::new()));
    assert_eq!((found.default.rate, collector.formats.b3), (Rate::DEFAULT, true));
    let (off, _) = tracing(&format!("enableTracing: false\n{zipkin}"));
    assert_eq!(off.default.collector, None);
}

#[test]
fn mistakes_are_named_and_cost_what_they_touch() {
    let mesh = "
defaultProviders: {tracing: [nobody]}
defaultConfig: {tracing: {sampling: 101, customTags: {a: {}, b: {header: {name: 'a b'}}}}}
extensionProviders:
- {name: half, zipkin: {service: zipkin}}
- {name: odd, zipkin: {service: z, port: 1, path: x, traceContextOption: W3C, headers: [{name: a}]}}";
    let (found, said) = tracing(mesh);
    let fields: Vec<_> = said.iter().map(|(field, severity)| (&**field, *severity)).collect();
    let expected = [
        "extensionProviders[0].zipkin",
        "extensionProviders[1].zipkin.path",
        "extensionProviders[1].zipkin.headers[0]",
        "extensionProviders[1].zipkin.traceContextOption",
        "defaultProviders.tracing",
        "defaultConfig.tracing.sampling",
        "defaultConfig.tracing.customTags[a]",
        "defaultConfig.tracing.customTags[b]",
    ];
    assert_eq!(fields, expected.map(|field| (field, Severity::Error)));
    assert_eq!(found.providers.keys().map(|name| &**name).collect::<Vec<_>>(), ["odd"]);
    assert_eq!(*found.default, Default::default());
}

#[test]
fn telemetry_overrides_what_it_names() {
    let mesh: String =
        format!("{PROVIDERS}defaultProviders: {{tracing: [otel]}}\n").lines().map(|l| format!("    {l}\n")).collect();
    let telemetry = |namespace: &str, spec: &str| {
        format!(
            "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t, namespace: {namespace}}}\nspec: {{tracing: [{spec}]}}\n"
        )
    };
    let pod = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {name}}}\nstatus: {{podIPs: [{{ip: 10.0.0.1}}]}}\n"
        )
    };
    let yaml = [
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{mesh}"
        ),
        telemetry("istio-system", "{randomSamplingPercentage: 50, customTags: {a: {literal: {value: b}}}}"),
        telemetry(
            "shop",
            "{providers: [{name: zipkin}], customTags: {c: {header: {name: x-c}}}, useRequestIdForTraceSampling: false}",
        ),
        telemetry("quiet", "{disableSpanReporting: true}, {match: {mode: SERVER}, randomSamplingPercentage: 0}"),
        telemetry("lost", "{providers: [{name: nobody}], enableIstioTags: false}"),
        ["shop", "quiet", "lost", "plain"].map(pod).concat(),
    ];
    let (snapshot, _) = compile(settings(), resources(&yaml.concat()));
    let of = |name: &str| {
        let workload = snapshot.workloads().find(|workload| &*workload.key.name == name).unwrap();
        snapshot.tracing(Some(workload))
    };
    let collector = |tracing: &crate::snapshot::tracing::Tracing| tracing.reports_to().map(|to| to.name.to_string());
    let half = Rate::of_percent(50.0).unwrap();
    for plain in [of("plain"), snapshot.tracing(None)] {
        assert_eq!((collector(&plain), plain.rate, &*plain.tags[0].name), (Some("otel".into()), half, "a"));
    }
    let shop = of("shop");
    assert_eq!(
        (collector(&shop), shop.rate, shop.draw_by_id, shop.longest_path),
        (Some("zipkin".into()), half, false, 64)
    );
    assert_eq!((shop.tags.len(), &*shop.tags[0].name), (1, "c"), "all of those above are replaced");
    let quiet = of("quiet");
    assert_eq!((collector(&quiet), quiet.rate), (None, half), "what servers do is not the caller's");
    let lost = of("lost");
    assert_eq!((collector(&lost), lost.istio_tags), (None, false));
}
