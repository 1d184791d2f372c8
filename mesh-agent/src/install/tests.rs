//! The chart through our own renderer; the committed kustomize base is what it makes.

use super::*;

fn rendered(profile: Profile, set: &[&str]) -> Vec<serde_json::Value> {
    let mut values = Values::of(profile).unwrap();
    set.iter().for_each(|assignment| values.set(assignment).unwrap());
    let objects = objects(&values, "mesh").unwrap();
    objects.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
}

fn agent(objects: &[serde_json::Value]) -> &serde_json::Value {
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    &set["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn values_reach_the_manifests() {
    let set = [
        "image.tag=1.10",
        "metrics.address=127.0.0.1",
        "extraArgs=[--workers=2, 'a b']",
        "rollingUpdate.maxUnavailable=3",
        "log=warn,a=debug",
    ];
    let objects = rendered(Profile::Demo, &set);
    let agent = agent(&objects);
    assert_eq!(agent["image"], "undermesh/mesh-agent:1.10");
    let args: Vec<_> = agent["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert!(args.contains(&"--owner=mesh/undermesh"), "{args:?}");
    assert!(args.contains(&"--metrics-addr=127.0.0.1:15090"), "{args:?}");
    assert!(args.contains(&"--access-log=-") && args.ends_with(&["--workers=2", "a b"]), "{args:?}");
    assert_eq!(agent["env"][1]["value"], "warn,a=debug");
    assert_eq!(objects.first().unwrap()["kind"], "Namespace");
    assert_eq!(objects.last().unwrap()["kind"], "DaemonSet", "uninstall begins with it");
}

#[test]
fn pods_wait_for_the_mesh_where_the_agent_may_change_the_nodes_network() {
    let folders = |objects: &[serde_json::Value]| {
        let mounts = agent(objects)["volumeMounts"].as_array().unwrap();
        let paths: Vec<_> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap().to_owned()).collect();
        let volumes = objects.last().unwrap()["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        assert_eq!(paths.len(), volumes.len());
        paths
    };
    let chained = rendered(Profile::Demo, &["cni.confDir=/x/net.d"]);
    assert!(folders(&chained).contains(&"/x/net.d".to_owned()), "{:?}", folders(&chained));
    assert!(agent(&chained)["args"].to_string().contains("--cni-conf-dir=/x/net.d"));
    for without in [rendered(Profile::Minimal, &[]), rendered(Profile::Default, &["cni.enabled=false"])] {
        assert!(!folders(&without).iter().any(|path| path.contains("cni")));
        assert!(!agent(&without)["args"].to_string().contains("cni"));
    }
}

#[test]
fn the_agent_understands_its_own_manifest() {
    use clap::Parser;
    for profile in [Profile::Default, Profile::Demo, Profile::Minimal] {
        let objects = rendered(profile, &[]);
        let args = agent(&objects)["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        crate::cli::Cli::try_parse_from(["mesh-agent"].into_iter().chain(args)).unwrap();
    }
}

#[test]
fn only_who_serves_gateways_may_read_secrets() {
    let secrets = |profile| {
        let objects = rendered(profile, &[]);
        let rules = objects.iter().filter_map(|object| object["rules"].as_array()).flatten();
        rules.flat_map(|rule| rule["resources"].as_array().unwrap()).any(|resource| resource == "secrets")
    };
    assert!(secrets(Profile::Default));
    assert!(!secrets(Profile::Minimal));
}

#[test]
fn the_role_reads_what_the_source_watches_and_writes_only_what_it_tells() {
    use crate::config::Kind;
    let objects = rendered(Profile::Default, &[]);
    let rules: Vec<_> = objects.iter().filter_map(|object| object["rules"].as_array()).flatten().collect();
    for rule in &rules {
        let verbs: Vec<_> = rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
        let resources: Vec<_> = rule["resources"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
        let allowed: &[&str] = match resources[..] {
            ["leases"] if rule["resourceNames"].is_null() => &["create"],
            ["leases"] => &["get", "update"],
            ["events"] => &["create"],
            [..] if resources.iter().all(|resource| resource.ends_with("/status")) => &["patch"],
            _ => &["get", "list", "watch"],
        };
        assert!(verbs.iter().all(|verb| allowed.contains(verb)), "{rule}");
    }
    for kind in Kind::ALL.iter().filter(|kind| kind.is_traffic()) {
        let (group, _) = kind.versions()[0].split_once('/').unwrap();
        let lower = kind.api_name().to_lowercase();
        let plural = match (lower.strip_suffix('y'), lower.ends_with("ss")) {
            (Some(stem), _) if !lower.ends_with("ay") => format!("{stem}ies"),
            (_, true) => format!("{lower}es"),
            _ => format!("{lower}s"),
        };
        let may = |rule: &&&serde_json::Value| {
            rule["apiGroups"] == serde_json::json!([group])
                && rule["resources"].as_array().unwrap().iter().any(|resource| resource == plural.as_str())
        };
        assert!(rules.iter().find(may).is_some(), "{kind}: {group}/{plural}");
    }
}

#[test]
fn every_kind_that_is_read_has_a_definition() {
    use crate::config::Kind;
    let ours = objects(&Values::of(Profile::Minimal).unwrap(), "mesh").unwrap();
    let all = [definitions().unwrap(), ours].concat();
    let all: Vec<_> = all.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect();
    for kind in Kind::ALL.iter().filter(|kind| kind.is_traffic()) {
        let (group, preferred) = kind.versions()[0].split_once('/').unwrap();
        let of = |object: &&serde_json::Value| {
            object["spec"]["group"] == group && object["spec"]["names"]["kind"] == kind.api_name()
        };
        let definition = all.iter().find(of).unwrap_or_else(|| panic!("{kind} has no definition"));
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["name"] == preferred).unwrap();
        assert_eq!(version["served"], true, "{kind}");
        assert!(
            !version["additionalPrinterColumns"].as_array().unwrap().is_empty(),
            "{kind}: kubectl get says nothing"
        );
    }
}

/// What the API server would drop is what nobody can say.
#[test]
fn our_own_kind_has_every_field_that_is_acted_on() {
    let objects = rendered(Profile::Default, &[]);
    let definition = objects.iter().find(|object| object["kind"] == "CustomResourceDefinition").unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let fields = include_str!("../../FIELDS.md").split("## ").find(|part| part.starts_with("RequestPolicy")).unwrap();
    let fields: Vec<_> = fields.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    assert!(fields.len() > 10);
    for (field, _) in fields {
        let mut at = schema;
        for part in field.split('.') {
            at = &at["properties"][part.trim_end_matches("[]")];
            at = if part.ends_with("[]") { &at["items"] } else { at };
        }
        assert!(at["type"].is_string(), "{field}");
    }
}

#[test]
fn what_cannot_be_set_is_refused() {
    let mut values = Values::of(Profile::Default).unwrap();
    for (assignment, why) in [
        ("log", "expected NAME=VALUE"),
        ("image.tga=1", "there is no value image.tga; there are: image.repository, image.tag"),
        ("image=x", "there is no value image"),
        ("drainSeconds=soon", "drainSeconds is a number"),
        ("gateways.enabled=maybe", "gateways.enabled is a boolean"),
    ] {
        let error = values.set(assignment).unwrap_err().to_string();
        assert!(error.contains(why), "{assignment}: {error}");
    }
}

#[test]
fn a_template_that_only_helm_understands_is_an_error() {
    let values = Values::of(Profile::Default).unwrap();
    for (template, why) in [
        ("a: {{ include \"x\" . }}", "line 1: `include \"x\" .` is not something we have"),
        ("a: {{ .Values.log | upper }}", "`upper` is not a function"),
        ("a: {{ .Values.image }}", "a list or map"),
        ("{{- if .Values.log }}\na: 1", "no end"),
        ("x\n{{- with .Values.image }}", "line 2: {{- with }} cannot stand here"),
        ("{{- if .Values.nothing }}\na: 1\n{{- end }}", "there is no value nothing"),
    ] {
        let error = render::render(template, &values, "mesh").unwrap_err().to_string();
        assert!(error.contains(why), "{template}: {error}");
    }
}

/// `mesh-agent install --dry-run > deploy/kustomize/base/undermesh.yaml` makes it anew.
#[test]
fn the_kustomize_base_is_what_install_applies() {
    let committed = include_str!("../../../deploy/kustomize/base/undermesh.yaml");
    assert_eq!(committed, manifest(&objects(&Values::of(Profile::Default).unwrap(), NAMESPACE).unwrap()).unwrap());
}
