//! Scenario F4's ground: TLS at a gateway pod, with a real client: certificates from a Secret and from files, by name,
//! both renewed while it serves; `httpsRedirect`; passthrough to an endpoint that has a certificate of its own.

mod support_node;

use mesh_test::lab::{Lab, Pod};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support_node::{eventually, settled};

const APP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: edge}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: edge}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, ports: [{containerPort: 80}]}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: inner, namespace: edge}
spec: {selector: {istio: inner}, ports: [{name: tls, port: 443, targetPort: 8443}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: inner, namespace: edge}
spec:
  selector: {istio: inner}
  servers:
  - {port: {number: 8443, name: https, protocol: HTTPS}, hosts: [through.example.com], tls: {mode: SIMPLE, credentialName: through}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: edge}
spec:
  hosts: ['*']
  gateways: [outer, inner]
  http: [{route: [{destination: {host: web}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through, namespace: edge}
spec:
  hosts: [through.example.com]
  gateways: [outer]
  tls: [{match: [{sniHosts: [through.example.com]}], route: [{destination: {host: inner, port: {number: 443}}}]}]
";

/// `files`: where the certificate and key of files.example.com are.
fn outer(files: &Path) -> String {
    let files = files.display();
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: outer, namespace: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ['*'], tls: {{httpsRedirect: true}}}}
  - {{port: {{number: 8443, name: secret, protocol: HTTPS}}, hosts: [secret.example.com], tls: {{mode: SIMPLE, credentialName: secret}}}}
  - {{port: {{number: 8443, name: files, protocol: HTTPS}}, hosts: [files.example.com], tls: {{mode: SIMPLE, serverCertificate: {files}/tls.crt, privateKey: {files}/tls.key}}}}
  - {{port: {{number: 8443, name: through, protocol: TLS}}, hosts: [through.example.com], tls: {{mode: PASSTHROUGH}}}}
"
    )
}

/// A certificate that is its own anchor.
struct Pair(CertifiedKey<KeyPair>);

impl Pair {
    fn new(host: &str) -> Self {
        Self(generate_simple_self_signed([host.to_owned()]).unwrap())
    }

    /// As cert-manager writes it.
    fn secret(&self, name: &str) -> String {
        let block = |pem: String| pem.lines().map(|line| format!("\n    {line}")).collect::<String>();
        let (cert, key) = (block(self.0.cert.pem()), block(self.0.signing_key.serialize_pem()));
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: edge}}\n\
             stringData:\n  tls.crt: |{cert}\n  tls.key: |{key}\n"
        )
    }

    fn write(&self, dir: &Path) {
        std::fs::write(dir.join("tls.key"), self.0.signing_key.serialize_pem()).unwrap();
        std::fs::write(dir.join("tls.crt"), self.0.cert.pem()).unwrap();
    }

    /// `GET /` over TLS from the node, trusting this certificate alone; the answer, or why there is none.
    fn get(&self, lab: &Lab, gateway: &Pod, host: &str) -> Result<String, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.cert.der().to_vec())).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = connect(lab, gateway, 8443)?;
        ask(StreamOwned::new(connection, stream), host)
    }
}

fn connect(lab: &Lab, gateway: &Pod, port: u16) -> Result<TcpStream, String> {
    let to = SocketAddr::new(gateway.ips().v4.into(), port);
    let limit = Duration::from_secs(5);
    let stream = lab.node_netns(0).run(|| TcpStream::connect_timeout(&to, limit)).unwrap();
    let stream = stream.map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(limit)).unwrap();
    Ok(stream)
}

fn ask(mut stream: impl Read + Write, host: &str) -> Result<String, String> {
    let sent = write!(stream, "GET /x?y=1 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    sent.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // A close without TLS's own is no concern of this test.
    let read = stream.read_to_end(&mut answer);
    match String::from_utf8_lossy(&answer).into_owned() {
        answer if answer.is_empty() => Err(format!("nothing came: {read:?}")),
        answer => Ok(answer),
    }
}

#[test]
fn tls_is_terminated_renewed_redirected_to_and_passed_through() {
    let files = tempfile::tempdir().unwrap();
    let [secret, on_disk, through] =
        ["secret", "files", "through"].map(|name| Pair::new(&format!("{name}.example.com")));
    on_disk.write(files.path());
    let lab = Lab::builder().start().unwrap();
    lab.label_namespace("edge", "istio-injection", Some("enabled")).unwrap();
    let pod = |name: &str, label| lab.pod(name).namespace("edge").label("istio", label).start().unwrap();
    let (ingress, _inner) = (pod("ingress", "ingressgateway"), pod("inner", "inner"));
    for yaml in [APP, &outer(files.path()), &secret.secret("secret"), &through.secret("through")] {
        lab.apply_yaml(yaml).unwrap();
    }
    for name in ["ingress", "inner"] {
        lab.agent(0).await_enrolled("edge", name, true).unwrap();
    }
    settled(&lab, "edge/web:80", 1);
    let good = |pair: &Pair, host: &str| {
        let fine = || pair.get(&lab, &ingress, host).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        let came = eventually(Duration::from_secs(10), fine);
        assert!(came, "{host}: {:?}\n{}", pair.get(&lab, &ingress, host), lab.agent(0).log_tail(30));
    };

    good(&secret, "secret.example.com");
    good(&on_disk, "files.example.com");
    good(&through, "through.example.com");
    let stranger = secret.get(&lab, &ingress, "other.example.com");
    assert!(stranger.is_err(), "no server has the name: {stranger:?}");
    let crossed = secret.get(&lab, &ingress, "files.example.com");
    assert!(crossed.is_err(), "each name has its own certificate: {crossed:?}");

    let redirected = ask(connect(&lab, &ingress, 8080).unwrap(), "secret.example.com").unwrap().to_lowercase();
    assert!(redirected.starts_with("http/1.1 301"), "{redirected}");
    assert!(redirected.contains("location: https://secret.example.com/x?y=1\r\n"), "{redirected}");

    let renewed = Pair::new("secret.example.com");
    lab.apply_yaml(&renewed.secret("secret")).unwrap();
    good(&renewed, "secret.example.com");
    assert!(secret.get(&lab, &ingress, "secret.example.com").is_err(), "the former certificate is gone");
    let rewritten = Pair::new("files.example.com");
    rewritten.write(files.path());
    good(&rewritten, "files.example.com");
    lab.finish().unwrap();
}
