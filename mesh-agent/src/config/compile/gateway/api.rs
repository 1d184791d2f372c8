//! The Gateway API's Gateway → plan (SEMANTICS §11).

use super::plan::{CaPlan, ClientPlan, Credential, Plan, PodSelector, ServerHost, ServerPlan, TlsPlan, Wire, name_of};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::gateway_api::{
    CertificateRef, ClientValidation, ClientValidationMode, Gateway, Listener, TlsMode,
};
use crate::snapshot::gateway::TlsVersion;
use std::sync::Arc;

/// Label of the pods that serve a Gateway (GEP-1762).
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// `granted`: whether a ReferenceGrant lets the Gateway use a Secret (namespace, name).
pub(super) fn plan(r: &Resource, gateway: &Gateway, granted: &dyn Fn(&str, &str) -> bool) -> Plan {
    let mut found = Vec::new();
    let mut servers = Vec::new();
    for (i, listener) in gateway.spec.listeners.iter().enumerate() {
        let at = format!("spec.listeners[{i}]");
        match wire(r, gateway, listener, &at, granted) {
            Ok(wire) => servers.push(ServerPlan {
                port: listener.port,
                wire,
                hosts: vec![ServerHost { namespace: None, host: hostname(listener) }],
                redirect: false,
                listener: Some(Arc::clone(&listener.name)),
                at,
            }),
            Err((field, message, fix)) => {
                let message = format!("{message}; the listener is left out");
                let diagnostic = Diagnostic::error(Code::BadListener, message);
                found.push(diagnostic.field(format!("{at}.{field}")).fix(fix));
            }
        }
    }
    let labels = [(GATEWAY_NAME_LABEL.into(), Arc::clone(&r.key.name))].into();
    let pods = PodSelector { namespace: Some(Arc::clone(&r.key.namespace)), labels };
    Plan { name: name_of(&r.key), pods, servers, found }
}

/// Every host where none is named.
pub(in super::super) fn hostname(listener: &Listener) -> Arc<str> {
    match listener.hostname.as_deref() {
        None | Some("") => "*".into(),
        Some(host) => host.to_ascii_lowercase().into(),
    }
}

type Refused = (String, String, &'static str);

fn wire(
    r: &Resource,
    gateway: &Gateway,
    listener: &Listener,
    at: &str,
    granted: &dyn Fn(&str, &str) -> bool,
) -> Result<Wire, Refused> {
    let refused = |field: &str, message: String, fix| Err((field.to_owned(), message, fix));
    let tls = listener.tls.as_ref();
    match (&*listener.protocol, tls) {
        ("HTTP", _) => Ok(Wire::Http),
        ("TLS", Some(tls)) if tls.mode == TlsMode::Passthrough => {
            refused("protocol", "TLSRoutes are not read yet".into(), "use an Istio Gateway with tls mode PASSTHROUGH")
        }
        ("HTTPS", Some(tls)) if tls.mode == TlsMode::Terminate => {
            let mut credentials = Vec::new();
            for (i, reference) in tls.certificate_refs.iter().enumerate() {
                let field = format!("tls.certificateRefs[{i}]");
                credentials.push(secret(r, reference, &field, at, granted)?);
            }
            if credentials.is_empty() {
                return refused(
                    "tls.certificateRefs",
                    "no certificate is named".into(),
                    "name a Secret of type kubernetes.io/tls",
                );
            }
            let clients = match validation(gateway, listener) {
                None => ClientPlan::None,
                Some(validation) => {
                    let Some(first) = validation.ca_certificate_refs.first() else {
                        return refused("tls", "client validation names no CA".into(), "add caCertificateRefs");
                    };
                    let ca = CaPlan::Secret(secret(r, first, "caCertificateRefs[0]", at, granted)?);
                    match validation.mode {
                        ClientValidationMode::AllowValidOnly => ClientPlan::Required(ca),
                        ClientValidationMode::AllowInsecureFallback => ClientPlan::Optional(ca),
                    }
                }
            };
            let plan = TlsPlan { credentials, files: None, clients, min: TlsVersion::V1_2, max: TlsVersion::V1_3 };
            Ok(Wire::Https(plan))
        }
        ("HTTPS", _) => refused("tls", "an HTTPS listener terminates TLS".into(), "add tls with certificateRefs"),
        (other, _) => refused("protocol", format!("UnsupportedProtocol: {other}"), "use HTTP or HTTPS"),
    }
}

/// By port where one is listed, else the Gateway's, else the listener's (before 1.4).
fn validation<'a>(gateway: &'a Gateway, listener: &'a Listener) -> Option<&'a ClientValidation> {
    let frontend = &gateway.spec.tls.frontend;
    match frontend.per_port.iter().find(|p| p.port == listener.port) {
        Some(port) => port.tls.validation.as_ref(),
        None => frontend.default.validation.as_ref(),
    }
    .or(listener.tls.as_ref()?.frontend_validation.as_ref())
}

fn secret(
    r: &Resource,
    reference: &CertificateRef,
    field: &str,
    at: &str,
    granted: &dyn Fn(&str, &str) -> bool,
) -> Result<Credential, Refused> {
    let refused = |message: String, fix| Err((field.to_owned(), message, fix));
    if !reference.group.is_empty() || !matches!(&*reference.kind, "" | "Secret") {
        return refused(format!("InvalidCertificateRef: kind {} is not supported", reference.kind), "name a Secret");
    }
    let namespace = reference.namespace.as_ref().unwrap_or(&r.key.namespace);
    if *namespace != r.key.namespace && !granted(namespace, &reference.name) {
        let message = format!("RefNotPermitted: no ReferenceGrant in {namespace} lets this Gateway use its Secrets");
        return refused(message, "add a ReferenceGrant from Gateway to Secret there");
    }
    Ok(Credential {
        at: format!("{at}.{field}"),
        namespace: Some(Arc::clone(namespace)),
        name: Arc::clone(&reference.name),
    })
}
