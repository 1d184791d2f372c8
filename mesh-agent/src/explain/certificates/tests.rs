use super::*;
use crate::balance::Registry;
use crate::config::Changes;
use crate::config::compile::{Compiler, Settings};
use crate::config::resource::parse::parse;
use crate::explain::seen::{Look, Seen, What, look};
use crate::identity::Standing;
use crate::snapshot::Snapshot;
use crate::time::Nanos;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: edge-0, namespace: shop, labels: {app: edge}, annotations: {undermesh.dev/netns: /n/edge}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}, annotations: {undermesh.dev/netns: /n/web}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{name: http, port: 80}, {name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: hidden, namespace: shop, annotations: {networking.istio.io/exportTo: "~"}}
spec: {clusterIP: 10.96.0.2, selector: {app: db}, ports: [{name: tcp, port: 1}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {app: edge}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example, b.example], tls: {mode: MUTUAL, credentialName: edge}}
  - {port: {number: 8443, name: c, protocol: HTTPS}, hosts: [c.example], tls: {mode: SIMPLE, credentialName: absent}}
"#;

struct Mesh {
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
    registry: Arc<Registry>,
}

impl Mesh {
    fn new(yaml: &str) -> Self {
        let parsed = parse(&Arc::from(Path::new("mesh.yaml")), yaml);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let upserts = parsed.resources.into_iter().map(Arc::new).collect();
        let mut compiler = Compiler::new(Settings { node: "".into(), cluster_domain: "cluster.local".into() });
        let snapshot = compiler.apply(Changes { upserts, ..Changes::default() }).snapshot;
        Self { compiler, snapshot, registry: Arc::default() }
    }

    fn rows(&self, from: &str) -> Vec<CertificateRow> {
        let Self { compiler, snapshot, registry } = self;
        let world = World { snapshot, compiler, registry, trouble: &|_| None, live: true, now: Nanos(1) };
        match look(&world, &Look { from: from.into(), what: What::Certificates }).unwrap() {
            Seen::Certificates(rows) => rows,
            other => panic!("{other:?}"),
        }
    }
}

/// Good for `days` from now.
fn pair(name: &str, days: u64) -> (String, String) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = UNIX_EPOCH.into();
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 3600)).into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn secret(name: &str, days: u64) -> String {
    let (chain, key) = pair(&format!("{name}.example"), days);
    let [chain, key] = [chain, key].map(|pem| STANDARD.encode(pem));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\n\
         data: {{tls.crt: {chain}, tls.key: {key}, ca.crt: {chain}}}\n"
    )
}

fn rule(name: &str, host: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{host: {host}, trafficPolicy: {policy}}}\n"
    )
}

/// Role, origin, use, and what is to be said of it.
fn told(rows: &[CertificateRow]) -> Vec<(Role, String, String, String)> {
    let what = |row: &CertificateRow| match &row.certificate {
        Some(facts) => format!("{} {:?} {}", facts.names.join(","), facts.standing, facts.days_left),
        None if row.broken => format!("broken: {}", row.note),
        None => row.note.clone(),
    };
    rows.iter().map(|row| (row.role, row.origin.clone(), row.used_for.join(" "), what(row))).collect()
}

fn row(role: Role, origin: &str, used_for: &str, what: &str) -> (Role, String, String, String) {
    (role, origin.into(), used_for.into(), what.into())
}

#[test]
fn a_gateway_and_a_client_see_what_they_need_and_no_more() {
    let tls = "{portLevelSettings: [{port: {number: 5432}, tls: {mode: MUTUAL, credentialName: client}}]}";
    let yaml = PODS.to_owned()
        + &secret("edge", 60)
        + &secret("client", 3)
        + &rule("db", "db", tls)
        + &rule("hidden", "hidden", "{tls: {mode: SIMPLE}}");
    let mesh = Mesh::new(&yaml);
    let (port, client) = ("db.shop.svc.cluster.local:5432", "DNS:client.example Expiring 3");
    let of_db = [
        row(Role::Client, "Secret shop/client", port, client),
        row(Role::ServerCa, "Secret shop/client", port, client),
    ];
    let web = mesh.rows("shop/web-0");
    assert_eq!(told(&web), [&[row(Role::MeshIdentity, "", "shop/web-0", NO_IDENTITY)][..], &of_db].concat());
    assert_eq!(web[1].reference.object, "DestinationRule shop/db");
    assert!(web[1].reference.place.starts_with("mesh.yaml:"), "{:?}", web[1].reference);
    let (hosts, edge) = ("a.example:443 b.example:443", "DNS:edge.example Valid 60");
    let of_edge = [
        row(Role::Server, "Secret shop/edge", hosts, edge),
        row(Role::ClientCa, "Secret shop/edge", hosts, edge),
        row(Role::Server, "", "c.example:8443", "broken: Secret absent: there is no such Secret"),
    ];
    let gateway = [&[row(Role::MeshIdentity, "", "shop/edge-0", NO_IDENTITY)][..], &of_edge, &of_db].concat();
    assert_eq!(told(&mesh.rows("shop/edge-0")), gateway);
    assert_eq!(mesh.rows("shop/edge-0")[1].reference.object, "Gateway shop/edge");
    let all: Vec<_> = told(&mesh.rows("")).into_iter().map(|(role, .., what)| (role, what)).collect();
    let hidden = (Role::ServerCa, "whom the agent's node believes".to_owned());
    assert_eq!((all.len(), all.contains(&hidden), all[0].1.as_str()), (7, true, NO_IDENTITY));
}

#[test]
fn files_are_read_as_they_are_now_and_what_is_wrong_with_them_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    let files = ["chain", "key", "ca"].map(|name| path(name).display().to_string());
    let [chain_path, _, ca_path] = &files;
    let tls = format!(
        "{{mode: MUTUAL, clientCertificate: {}, privateKey: {}, caCertificates: {}}}",
        files[0], files[1], files[2]
    );
    let mesh = Mesh::new(&(PODS.to_owned() + &rule("db", "db", &format!("{{tls: {tls}}}"))));
    let rows = || told(&mesh.rows("shop/web-0")).split_off(1);
    let hosts = "db.shop.svc.cluster.local:80 db.shop.svc.cluster.local:5432";
    let missing = |path: &str| format!("broken: {path}: No such file or directory (os error 2)");
    assert_eq!(
        rows(),
        [
            row(Role::Client, chain_path, hosts, &missing(chain_path)),
            row(Role::ServerCa, ca_path, hosts, &missing(ca_path)),
        ]
    );
    let ((chain, key), (other, other_key)) = (pair("a", 90), pair("b", 90));
    write("chain", &format!("{chain}{other}"));
    write("key", &key);
    write("ca", &other.repeat(MOST_ANCHORS + 2));
    let got = rows();
    let shown = |name: &str| format!("DNS:{name} Valid 90");
    assert_eq!(
        got[..2],
        [row(Role::Client, chain_path, hosts, &shown("a")), row(Role::Intermediate, chain_path, hosts, &shown("b")),]
    );
    assert_eq!(got.len(), 2 + MOST_ANCHORS + 1);
    assert_eq!(got.last().unwrap(), &row(Role::ServerCa, ca_path, hosts, "and 2 more"));
    write("key", &other_key);
    assert_eq!(rows()[0].3, "broken: the private key is not the certificate's");
    write("ca", &" ".repeat(usize::try_from(LONGEST).unwrap() + 1));
    assert!(rows().last().unwrap().3.ends_with("no file of at most 1024 KiB"), "{:?}", rows().last());
    std::fs::remove_file(path("ca")).unwrap();
    std::fs::create_dir(path("ca")).unwrap();
    assert!(rows().last().unwrap().3.contains("no file of"), "a folder, a pipe, a device: not read");
}

#[test]
fn rules_without_certificates_say_what_holds() {
    for (tls, want) in [
        ("{mode: SIMPLE}", vec![(Role::ServerCa, false, "whom the agent's node believes")]),
        (
            "{mode: SIMPLE, insecureSkipVerify: true}",
            vec![(Role::ServerCa, false, "insecureSkipVerify: whoever answers is believed")],
        ),
        ("{mode: SIMPLE, credentialName: no}", vec![(Role::ServerCa, true, "has no usable ca.crt")]),
        (
            "{mode: ISTIO_MUTUAL}",
            vec![(Role::Client, false, "ISTIO_MUTUAL takes a mesh identity, and there is none: sent as without TLS")],
        ),
        ("{mode: DISABLE}", vec![]),
    ] {
        let mesh = Mesh::new(&(PODS.to_owned() + &rule("db", "db", &format!("{{tls: {tls}}}"))));
        let rows = mesh.rows("shop/web-0").split_off(1);
        let got: Vec<_> = rows.iter().map(|row| (row.role, row.broken, &*row.note)).collect();
        assert_eq!(got, want, "{tls}");
    }
}

#[test]
fn no_answer_has_a_private_key_in_it() {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    std::fs::write(path("chain"), cert.pem()).unwrap();
    std::fs::write(path("key"), signing_key.serialize_pem()).unwrap();
    let tls = format!(
        "{{tls: {{mode: MUTUAL, clientCertificate: {}, privateKey: {}}}}}",
        path("chain").display(),
        path("key").display()
    );
    let secret = secret("edge", 60);
    let mesh = Mesh::new(&(PODS.to_owned() + &secret + &rule("db", "db", &tls)));
    let rows = mesh.rows("");
    assert_eq!(
        rows.iter().filter(|row| row.certificate.as_ref().is_some_and(|c| c.standing != Standing::Expired)).count(),
        3
    );
    let text = format!("{rows:?}{}", serde_json::to_string(&rows).unwrap());
    let key = signing_key.serialize_pem();
    assert!(!text.contains("PRIVATE") && !key.lines().filter(|line| line.len() > 20).any(|line| text.contains(line)));
    let of_secret = secret.split("tls.key: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(!text.contains(of_secret));
}
