use super::*;
use crate::error::{Flag, Flags};
use crate::snapshot::{Enrolment, Locality, Owner, WorkloadKey};
use std::collections::BTreeMap;

fn workload(namespace: &str, owner: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        key: WorkloadKey { namespace: namespace.into(), name: format!("{owner}-x").into(), uid: "".into() },
        owner: Owner { kind: "Deployment".into(), name: owner.into() },
        service_account: "default".into(),
        node: "n".into(),
        labels: labels.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect::<BTreeMap<_, _>>(),
        ips: Vec::new(),
        locality: Locality::default(),
        enrolment: Enrolment::Elsewhere,
    }
}

fn pingpong() -> Callee {
    let [host, name, namespace] = ["ws002-pingpong.lab.svc.cluster.local", "ws002-pingpong", "lab"].map(Arc::from);
    Callee::declared(&host, &name, &namespace)
}

/// Scenario A6's series, of both reporters.
#[test]
fn labels_are_istios() {
    let from = workload("lab", "ws001-api", &[("app", "ws001-api"), ("version", "v1")]);
    let to = workload("lab", "ws002-pingpong-v2", &[("app", "ws002-pingpong"), ("version", "v2")]);
    let codes = Codes { protocol: "grpc", response: Some((200, Some(0))), flags: &Flags::NONE };
    let of = |reporter| coded(&peers(reporter, Some(&from), Some(&to), &pingpong()), reporter, &codes);
    let expected = "source_workload=\"ws001-api\",source_canonical_service=\"ws001-api\",\
         source_canonical_revision=\"v1\",source_workload_namespace=\"lab\",source_principal=\"unknown\",\
         source_app=\"ws001-api\",source_version=\"v1\",source_cluster=\"Kubernetes\",\
         destination_workload=\"ws002-pingpong-v2\",destination_workload_namespace=\"lab\",\
         destination_principal=\"unknown\",destination_app=\"ws002-pingpong\",destination_version=\"v2\",\
         destination_service=\"ws002-pingpong.lab.svc.cluster.local\",\
         destination_canonical_service=\"ws002-pingpong\",destination_canonical_revision=\"v2\",\
         destination_service_name=\"ws002-pingpong\",destination_service_namespace=\"lab\",\
         destination_cluster=\"Kubernetes\",request_protocol=\"grpc\",response_code=\"200\",\
         grpc_response_status=\"0\",response_flags=\"-\",connection_security_policy=";
    assert_eq!(of(Reporter::Source), format!("reporter=\"source\",{expected}\"unknown\""));
    assert_eq!(of(Reporter::Destination), format!("reporter=\"destination\",{expected}\"none\""));
}

#[test]
fn what_is_not_known_is_unknown_and_its_revision_latest() {
    let callee = Callee::undeclared("PassthroughCluster", Some("Example.COM:8000"));
    let text = peers(Reporter::Source, None, None, &callee);
    for part in [
        "source_workload=\"unknown\"",
        "source_canonical_revision=\"latest\"",
        "destination_canonical_service=\"unknown\"",
        "destination_service=\"example.com:8000\"",
        "destination_service_name=\"PassthroughCluster\"",
        "destination_service_namespace=\"unknown\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let codes = Codes { protocol: "tcp", response: None, flags: &Flags::from(Flag::UF) };
    let tcp = coded("", Reporter::Source, &codes);
    assert_eq!(tcp, "request_protocol=\"tcp\",response_flags=\"UF\",connection_security_policy=\"unknown\"");
}

#[test]
fn canonical_names_have_an_order() {
    let all = [
        ("app", "a"),
        ("app.kubernetes.io/name", "b"),
        ("service.istio.io/canonical-name", "c"),
        ("version", "1"),
        ("app.kubernetes.io/version", "2"),
        ("service.istio.io/canonical-revision", "3"),
    ];
    let of = |labels: &[(&str, &str)]| {
        let workload = workload("n", "own", labels);
        (canonical_service(&workload).to_owned(), canonical_revision(&workload).to_owned())
    };
    assert_eq!(of(&all), ("c".into(), "3".into()));
    assert_eq!(of(&[all[0], all[1], all[3], all[4]]), ("b".into(), "2".into()));
    assert_eq!(of(&[all[0], all[3]]), ("a".into(), "1".into()));
    assert_eq!(of(&[]), ("own".into(), "latest".into()));
}

#[test]
fn tags_are_put_in_place_and_removed() {
    let text = r#"reporter="source",source_app="a\\",version="x\"y,z=\"q",app="b""#;
    let tags = [("source_app", None), ("app", Some("n\"ew")), ("host", Some("h"))];
    let changed = rewritten(text, tags.into_iter());
    assert_eq!(changed, r#"reporter="source",version="x\"y,z=\"q",app="n\"ew",host="h""#);
    assert_eq!(rewritten(text, std::iter::empty()), text);
}

#[test]
fn what_the_network_says_is_cleaned() {
    for (host, as_label) in [
        ("shop", "shop"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("", "invalid"),
        ("a b", "invalid"),
        ("a\"}\nistio_requests_total 1", "invalid"),
        ("ä.example", "invalid"),
        (&"a".repeat(300), "invalid"),
    ] {
        assert_eq!(&*Callee::undeclared("x", Some(host)).host, as_label, "{host}");
    }
    let mut text = String::new();
    label(&mut text, "version", "a\"\\\nb");
    assert_eq!(text, r#"version="a\"\\\nb""#);
}
