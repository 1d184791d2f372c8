use super::*;
use crate::addr::ClientAddr;
use crate::connections::Connections;
use crate::detect::Replay;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

struct Pair {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Pair {
    fn new(name: &str) -> Self {
        Self { made: rcgen::generate_simple_self_signed([name.to_owned()]).unwrap() }
    }

    fn pem(&self) -> (Sensitive, Sensitive) {
        let secret = |text: String| Sensitive::new(text.into_bytes());
        (secret(self.made.cert.pem()), secret(self.made.signing_key.serialize_pem()))
    }

    fn certificate(&self) -> Arc<Certificate> {
        let (chain, key) = self.pem();
        Arc::new(Certificate::from_pem(chain, key).unwrap())
    }

    fn anchors(&self) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors::from_pem(self.pem().0).unwrap())
    }

    fn der(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).unwrap();
        (self.made.cert.der().clone(), key)
    }
}

fn server(certificates: &[&Pair], clients: ClientCertificates) -> ServerTls {
    ServerTls {
        certificates: certificates.iter().map(|pair| pair.certificate()).collect(),
        missing: Vec::new(),
        files: None,
        clients,
        min: TlsVersion::V1_2,
        max: TlsVersion::V1_3,
    }
}

/// A client that believes in `trusted` and shows `own`.
fn client(trusted: &[&Pair], own: Option<&Pair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der().0).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match own.map(Pair::der) {
        Some((chain, key)) => builder.with_client_auth_cert(vec![chain], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A handshake as a gateway does it; returns the certificate the client met.
async fn handshake(
    configs: &TlsConfigs,
    tls: &Arc<ServerTls>,
    client: ClientConfig,
    name: &str,
) -> io::Result<CertificateDer<'static>> {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let wanted = ServerName::try_from(name.to_owned()).unwrap();
    let connect = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(wanted, near).await?;
        // In TLS 1.3 a client learns that its certificate was refused only after its own part of the handshake.
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Ok::<_, io::Error>(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
    };
    let serve = async {
        let mut first = BytesMut::new();
        let sni = hello(&mut far, &mut first).await?;
        assert_eq!(sni.as_deref(), Some(name));
        let client = ClientAddr::new(([127, 0, 0, 1], 1).into());
        let listed = Arc::new(Connections::default()).enter(client, None, String::new(), None);
        let io = Replay::new(first.freeze(), far, Arc::clone(&listed.connection));
        let mut stream = configs.terminate(tls, true, io).await?;
        stream.write_all(b"x").await?;
        stream.flush().await
    };
    let (met, served) = tokio::join!(connect, serve);
    served.and(met)
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let (a, b) = (Pair::new("a.com"), Pair::new("*.b.com"));
    let (configs, tls) = (TlsConfigs::default(), Arc::new(server(&[&a, &b], ClientCertificates::None)));
    for (name, want) in [("a.com", &a), ("x.b.com", &b)] {
        let met = handshake(&configs, &tls, client(&[&a, &b], None), name).await.unwrap();
        assert_eq!(met, want.der().0, "{name}");
    }
    assert!(handshake(&configs, &tls, client(&[&a, &b], None), "c.com").await.is_err());
}

#[tokio::test]
async fn client_certificates_are_verified() {
    let (own, known, stranger) = (Pair::new("a.com"), Pair::new("client"), Pair::new("stranger"));
    let configs = TlsConfigs::default();
    let required = Arc::new(server(&[&own], ClientCertificates::Required(Some(known.anchors()))));
    let optional = Arc::new(server(&[&own], ClientCertificates::Optional(Some(known.anchors()))));
    for (tls, shown, works) in [
        (&required, Some(&known), true),
        (&required, Some(&stranger), false),
        (&required, None, false),
        (&optional, Some(&known), true),
        (&optional, Some(&stranger), false),
        (&optional, None, true),
    ] {
        let met = handshake(&configs, tls, client(&[&own], shown), "a.com").await;
        assert_eq!(met.is_ok(), works, "{:?} {met:?}", tls.clients);
    }
    let nobody = server(&[&own], ClientCertificates::Required(Some(Arc::new(TrustAnchors::none()))));
    assert!(matches!(configs.config(&Arc::new(nobody), true), Err(TlsError::NoAnchors)));
    let empty = Arc::new(server(&[], ClientCertificates::None));
    assert!(matches!(configs.config(&empty, true), Err(TlsError::NoCertificate)));
}

#[tokio::test]
async fn a_configuration_lives_as_long_as_its_snapshot_and_files_are_read_again() {
    let (one, two) = (Pair::new("a.com"), Pair::new("a.com"));
    let configs = TlsConfigs::default();
    let tls = Arc::new(server(&[&one], ClientCertificates::None));
    let made = configs.config(&tls, true).unwrap();
    assert!(Arc::ptr_eq(&made, &configs.config(&tls, true).unwrap()));
    drop(tls);
    configs.config(&Arc::new(server(&[&two], ClientCertificates::None)), true).unwrap();
    assert_eq!(configs.made.lock().unwrap().len(), 1, "the former one is forgotten");

    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
    let write = |pair: &Pair| {
        std::fs::write(&certificate, pair.pem().0.bytes()).unwrap();
        std::fs::write(&key, pair.pem().1.bytes()).unwrap();
    };
    write(&one);
    let files = TlsFiles { certificate: certificate.clone(), key: key.clone(), ca: None };
    let tls = Arc::new(ServerTls { files: Some(files), ..server(&[], ClientCertificates::None) });
    assert_eq!(handshake(&configs, &tls, client(&[&one], None), "a.com").await.unwrap(), one.der().0);
    write(&two);
    // Whoever looks within the second may still meet the former certificate.
    let renewed = async {
        while handshake(&configs, &tls, client(&[&two], None), "a.com").await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
}

#[tokio::test]
async fn what_is_no_client_hello_is_refused() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0], b""] {
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(bytes).await.unwrap();
        drop(near);
        assert!(hello(&mut far, &mut BytesMut::new()).await.is_err(), "{bytes:?}");
    }
}
