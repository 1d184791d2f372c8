//! Every public sample loads: what people already have is taken as it is.
//!
//! The samples lie beside the repository (`../shared/samples`); `UNDERMESH_SAMPLES` names another folder. Without them
//! this test fails: it never passes by not looking.

use mesh_agent::config::compile::{Compiler, Settings, compile};
use mesh_agent::config::source::FileSource;
use mesh_agent::config::{Changes, Code, Severity};
use std::path::{Path, PathBuf};

fn samples() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    let dir = std::env::var_os("UNDERMESH_SAMPLES").map_or(beside, PathBuf::from);
    assert!(
        dir.is_dir(),
        "no samples at {}: put Istio's samples/ folder there, or name another with UNDERMESH_SAMPLES",
        dir.display()
    );
    dir
}

fn settings() -> Settings {
    Settings { node: "".into(), cluster_domain: "cluster.local".into() }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
            found.push(path);
        }
    }
}

#[test]
fn every_sample_file_loads_without_a_false_word() {
    let mut all = Vec::new();
    files(&samples(), &mut all);
    assert!(all.len() > 50, "only {} sample files", all.len());
    let mut wrong = Vec::new();
    for file in all {
        let scan = FileSource::new(vec![file.clone()]).scan();
        // Not Kubernetes objects at all (values of charts, an API description) are said to be just that.
        // What we do not act on is said, and true.
        let bad = |d: &&mesh_agent::config::Diagnostic| {
            d.severity != Severity::Info && !matches!(d.code, Code::NotAnObject | Code::NotSupported)
        };
        wrong.extend(scan.diagnostics.iter().filter(bad).map(ToString::to_string));
        let (_, diagnostics) = compile(settings(), scan.changes.upserts);
        let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error && !is_true(d));
        wrong.extend(errors.map(ToString::to_string));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_apps_of_the_first_week_compile_to_their_services() {
    for (app, service, port, protocol) in [
        ("bookinfo/platform/kube/bookinfo.yaml", "reviews", 9080, "Http"),
        ("helloworld/helloworld.yaml", "helloworld", 5000, "Http"),
        ("httpbin/httpbin.yaml", "httpbin", 8000, "Http"),
        ("grpc-echo/grpc-echo.yaml", "echo", 7070, "Grpc"),
        ("tcp-echo/tcp-echo.yaml", "tcp-echo", 9000, "Tcp"),
    ] {
        let scan = FileSource::new(vec![samples().join(app)]).scan();
        assert!(scan.diagnostics.iter().all(|d| d.severity == Severity::Info), "{app}: {:?}", scan.diagnostics);
        let (snapshot, _) = compile(settings(), scan.changes.upserts);
        let found =
            snapshot.services().find(|s| &*s.name.name == service).unwrap_or_else(|| panic!("{app}: no {service}"));
        let port = found.ports.iter().find(|p| p.port == port).unwrap_or_else(|| panic!("{app}: no port {port}"));
        assert_eq!(format!("{:?}", port.protocol), protocol, "{app} {}", port.key);
    }
}

/// Findings that are true of the samples, with why. Everything else above information would be a false word.
const TRUE: &[(&str, &str)] = &[
    // Kubernetes has no such endpoints in files: the Services of Bookinfo's variants whose pods another file starts.
    ("UM0101", "no endpoints"),
    // Said of what this version does not act on: mTLS between pods, prefixes of addresses, EnvoyFilter.
    ("UM0110", ""),
    // A Gateway API listener for plain TCP is left out.
    ("UM0406", "UnsupportedProtocol: TCP"),
    // cert-manager makes this Service while it solves a challenge.
    ("IST0101", "cert-manager-resolver"),
    // The sample with weights builds on the objects of the one before, which define the same VirtualService.
    ("IST0101", "tcp-echo"),
    // The sample brings a DestinationRule of its own for a host of destination-rule-all.yaml, and a rule behind a
    // catch-all.
    ("UM0009", "fault-injection-details-v1.yaml"),
    ("IST0130", "spec.http[0] takes every request"),
    // Bookinfo's gateway sends to productpage as a whole, whatever subset the rules of the mesh choose.
    ("IST0140", "productpage.default.svc.cluster.local"),
];

fn is_true(d: &mesh_agent::config::Diagnostic) -> bool {
    TRUE.iter().any(|(code, text)| d.code.id() == *code && d.message.contains(text))
}

/// What belongs together is judged together: an app's Services, pods and one file of rules after the other.
#[test]
fn analysis_names_nothing_false() {
    let bookinfo: &[&str] = &["bookinfo/platform/kube/bookinfo.yaml"];
    let mut groups: Vec<Vec<PathBuf>> = Vec::new();
    let with = |base: &[&str], more: &str| base.iter().chain([&more]).map(|name| samples().join(name)).collect();
    let mut rules = Vec::new();
    files(&samples().join("bookinfo/networking"), &mut rules);
    for rule in &rules {
        let mut group: Vec<PathBuf> = with(bookinfo, "bookinfo/networking/bookinfo-gateway.yaml");
        group.push(samples().join("bookinfo/networking/destination-rule-all.yaml"));
        if rule.ends_with("destination-rule-reviews.yaml") || rule.ends_with("destination-rule-all-mtls.yaml") {
            group.pop();
        }
        group.push(rule.clone());
        groups.push(group);
    }
    for (app, more) in [
        ("helloworld/helloworld.yaml", "helloworld/helloworld-gateway.yaml"),
        ("httpbin/httpbin.yaml", "httpbin/httpbin-gateway.yaml"),
        ("websockets/app.yaml", "websockets/route.yaml"),
        ("tcp-echo/tcp-echo-services.yaml", "tcp-echo/tcp-echo-all-v1.yaml"),
        ("tcp-echo/tcp-echo-services.yaml", "tcp-echo/tcp-echo-20-v2.yaml"),
        ("external/github.yaml", "curl/curl.yaml"),
    ] {
        groups.push(with(&[app], more));
    }
    assert!(groups.len() > 20, "only {} groups", groups.len());
    let mut wrong = Vec::new();
    for group in groups {
        let name = group.last().map(|p| p.display().to_string()).unwrap_or_default();
        let scan = FileSource::new(group).scan();
        let mut compiler = Compiler::new(settings());
        compiler.apply(Changes { upserts: scan.changes.upserts, ..Changes::default() });
        let compiled: Vec<_> = compiler.diagnostics().cloned().collect();
        let found = [scan.diagnostics, compiled, compiler.analysis()].concat();
        let bad = found.iter().filter(|d| d.severity != Severity::Info);
        wrong.extend(bad.filter(|d| !is_true(d)).map(|d| format!("{name}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
