//! Istio's Gateway.

use super::super::Labels;
use super::super::fields::{Field, leaf, list, message, no};
use super::super::schema::object;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gateway {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub servers: Vec<Server>,
    /// Labels of the gateway's pods, in any namespace.
    pub selector: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    pub name: Arc<str>,
    pub port: Port,
    pub bind: Arc<str>,
    /// `[namespace/]dnsName`
    pub hosts: Vec<Arc<str>>,
    pub tls: Option<ServerTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    pub number: i64,
    /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP`, `TLS`
    pub protocol: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTls {
    pub https_redirect: bool,
    /// `PASSTHROUGH` (default), `SIMPLE`, `MUTUAL`, `AUTO_PASSTHROUGH`, `ISTIO_MUTUAL`, `OPTIONAL_MUTUAL`
    pub mode: Arc<str>,
    pub server_certificate: Arc<str>,
    pub private_key: Arc<str>,
    pub ca_certificates: Arc<str>,
    pub credential_name: Arc<str>,
    pub credential_names: Vec<Arc<str>>,
    pub ca_cert_credential_name: Arc<str>,
    pub subject_alt_names: Vec<Arc<str>>,
    /// `TLS_AUTO`, `TLSV1_2`, `TLSV1_3`; older ones are not spoken.
    pub min_protocol_version: Arc<str>,
    pub max_protocol_version: Arc<str>,
    pub cipher_suites: Vec<Arc<str>>,
}

pub(crate) const FIELDS: &[Field] = &object(&[list("servers", SERVER), leaf("selector")]);
const SERVER: &[Field] = &[
    leaf("name"),
    message(
        "port",
        &[leaf("number"), leaf("protocol"), leaf("name"), no("targetPort", "deprecated; Istio ignores it too")],
    ),
    leaf("bind"),
    leaf("hosts"),
    message(
        "tls",
        &[
            leaf("httpsRedirect"),
            leaf("mode"),
            leaf("serverCertificate"),
            leaf("privateKey"),
            leaf("caCertificates"),
            no("caCrl", "certificate revocation lists are not read"),
            leaf("credentialName"),
            leaf("credentialNames"),
            leaf("caCertCredentialName"),
            no("tlsCertificates", "write credentialNames"),
            leaf("subjectAltNames"),
            no("verifyCertificateSpki", "write subjectAltNames"),
            no("verifyCertificateHash", "write subjectAltNames"),
            leaf("minProtocolVersion"),
            leaf("maxProtocolVersion"),
            leaf("cipherSuites"),
            no("insecureSkipVerify", "client certificates are always verified"),
        ],
    ),
    no("defaultEndpoint", "Istio ignores it too; write a VirtualService"),
];
