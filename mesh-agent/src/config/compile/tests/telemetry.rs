//! Telemetry objects: what holds for whom, and what is wrong with them.

use super::*;
use crate::config::Severity;
use crate::snapshot::telemetry::{Applies, Mode, Telemetry};
use crate::snapshot::tracing::{Rate, TagValue};
use crate::telemetry::Family;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, namespace: shop, labels: {app: web}}\n\
                   status: {podIPs: [{ip: 10.0.0.1}]}\n";

fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Names of what holds for the pod, the widest first.
fn holding(snapshot: &Snapshot) -> Vec<(String, Arc<Telemetry>)> {
    let web = snapshot.workloads().find(|workload| &*workload.key.name == "web-0").unwrap();
    let name = |of: &Arc<Telemetry>| of.rule.object.as_ref().unwrap().name.to_string();
    snapshot.telemetry(Some(web)).map(|of| (name(of), Arc::clone(of))).collect()
}

#[test]
fn the_root_namespace_then_the_own_one_then_the_workload_speak() {
    let yaml = [
        POD.to_owned(),
        telemetry("istio-system", "mesh", "{tracing: [{randomSamplingPercentage: 100, providers: [{name: zipkin}]}]}"),
        telemetry("istio-system", "gateways", "{selector: {matchLabels: {app: web}}}"),
        telemetry("shop", "whole", "{tracing: [{customTags: {a: {literal: {value: b}}, h: {header: {name: x}}}}]}"),
        telemetry("shop", "others", "{selector: {matchLabels: {app: db}}}"),
        telemetry(
            "shop",
            "web",
            "{selector: {matchLabels: {app: web}}, accessLogging: [{match: {mode: CLIENT}, disabled: true}]}",
        ),
    ];
    let (snapshot, found) = compile(settings(), resources(&yaml.concat()));
    assert!(found.iter().all(|found| found.severity != Severity::Error), "{found:?}");
    let holds = holding(&snapshot);
    assert_eq!(holds.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["mesh", "whole", "web"]);
    let mesh = &holds[0].1.tracing[0];
    assert_eq!((mesh.sampling, mesh.provider.as_deref()), (Some(Rate::ALL), Some("zipkin")));
    let tags = &holds[1].1.tracing[0].tags;
    assert_eq!((&*tags[0].name, &tags[0].value), ("a", &TagValue::Literal("b".into())));
    assert_eq!(tags[1].value, TagValue::Header { name: "x".parse().unwrap(), default: None });
    let logging = &holds[2].1.access_logging[0];
    assert_eq!((logging.mode, logging.disabled), (Mode::Client, true));
}

#[test]
fn what_is_wrong_is_named_and_left_out() {
    let spec = "{targetRefs: [{kind: Service, name: a, group: ''}], metrics: [{overrides: [\
                {match: {metric: REQUEST_COUNT}, tagOverrides: {host: {value: request.host}, \
                bad: {value: 'request.host ='}, source_app: {operation: REMOVE}, '9': {value: request.host}}}, \
                {match: {metric: REQUESTS}}]}], \
                accessLogging: [{filter: {expression: 'respnse.code > 1'}}], \
                tracing: [{randomSamplingPercentage: 101, customTags: {h: {header: {name: 'a b'}}}}, {match: {mode: BOTH}}]}";
    let (snapshot, found) = compile(settings(), resources(&(POD.to_owned() + &telemetry("shop", "t", spec))));
    let mut fields: Vec<_> = found.iter().filter(|d| d.severity == Severity::Error).map(|d| d.field.clone()).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "spec.accessLogging[0].filter.expression",
            "spec.metrics[0].overrides[0].tagOverrides[9]",
            "spec.metrics[0].overrides[0].tagOverrides[bad].value",
            "spec.metrics[0].overrides[1].match",
            "spec.targetRefs[0]",
            "spec.tracing[0].customTags[h]",
            "spec.tracing[0].randomSamplingPercentage",
            "spec.tracing[1].match.mode",
        ]
    );
    let of = &snapshot.telemetries_of("shop")[0];
    assert_eq!(of.applies, Applies::Gateways(Vec::new()), "an object for nobody must not hold for all");
    let [count] = &of.metrics[..] else { panic!("{:?}", of.metrics) };
    assert_eq!(count.family, Some(Family::Requests));
    let tags: Vec<_> = count.tags.iter().map(|(name, value)| (&**name, value.as_ref().map(|e| e.source()))).collect();
    assert_eq!(tags, [("host", Some("request.host")), ("source_app", None)]);
}
