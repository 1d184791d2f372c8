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
    let set =
        ["image.tag=1.10", "extraArgs=[--workers=2, 'a b']", "rollingUpdate.maxUnavailable=3", "log=warn,a=debug"];
    let objects = rendered(Profile::Demo, &set);
    let agent = agent(&objects);
    assert_eq!(agent["image"], "undermesh/mesh-agent:1.10");
    let args: Vec<_> = agent["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert!(args.contains(&"--owner=mesh/undermesh"), "{args:?}");
    assert!(args.ends_with(&["--access-log=-", "--workers=2", "a b"]), "{args:?}");
    assert_eq!(agent["env"][1]["value"], "warn,a=debug");
    assert_eq!(objects.first().unwrap()["kind"], "Namespace");
    assert_eq!(objects.last().unwrap()["kind"], "DaemonSet", "uninstall begins with it");
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
fn the_role_reads_what_the_source_watches_and_changes_nothing() {
    use crate::config::Kind;
    let objects = rendered(Profile::Default, &[]);
    let rules: Vec<_> = objects.iter().filter_map(|object| object["rules"].as_array()).flatten().collect();
    for rule in &rules {
        let verbs: Vec<_> = rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
        assert!(verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{rule}");
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
    assert_eq!(committed, manifest(&Values::of(Profile::Default).unwrap(), NAMESPACE).unwrap());
}
