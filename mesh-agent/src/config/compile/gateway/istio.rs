//! Istio's Gateway → plan (SEMANTICS §8).

use super::plan::{CaPlan, ClientPlan, Credential, Plan, PodSelector, ServerHost, ServerPlan, TlsPlan, Wire, name_of};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::istio::gateway::{Gateway, Server, ServerTls};
use crate::snapshot::gateway::{TlsFiles, TlsVersion};
use std::sync::Arc;

pub(super) fn plan(r: &Resource, gateway: &Gateway) -> Plan {
    let mut found = Vec::new();
    if gateway.spec.selector.is_empty() {
        let diagnostic = Diagnostic::warning(Code::SchemaValidationError, "without a selector it selects no pod");
        found.push(
            diagnostic.field("spec.selector").fix("name the gateway pods' labels, such as istio: ingressgateway"),
        );
    }
    let servers = gateway.spec.servers.iter().enumerate();
    let servers = servers.filter_map(|(i, server)| plan_server(r, server, &format!("spec.servers[{i}]"), &mut found));
    let servers = servers.collect();
    let pods = PodSelector { namespace: None, labels: gateway.spec.selector.clone() };
    Plan { name: name_of(&r.key), pods, servers, found }
}

fn plan_server(r: &Resource, server: &Server, at: &str, found: &mut Vec<Diagnostic>) -> Option<ServerPlan> {
    let mut error = |field: &str, message: String, fix: &str| {
        let message = format!("{message}; the server is left out");
        found.push(Diagnostic::error(Code::SchemaValidationError, message).field(format!("{at}.{field}")).fix(fix));
    };
    let Some(port) = u16::try_from(server.port.number).ok().filter(|port| *port > 0) else {
        error("port.number", format!("{} is not a port number", server.port.number), "write a number from 1 to 65535");
        return None;
    };
    let tls = server.tls.as_ref();
    let protocol = server.port.protocol.to_ascii_uppercase();
    let wire = match &*protocol {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Ok(Wire::Http),
        "HTTPS" => {
            tls.map_or(Err(("tls", "an HTTPS server needs tls".to_owned())), |tls| terminate(tls, at, Wire::Https))
        }
        "TLS" => tls.map_or(Ok(Wire::Passthrough), |tls| terminate(tls, at, Wire::Tls)),
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => match tls {
            Some(tls) => terminate(tls, at, Wire::Tls),
            None => Ok(Wire::Tcp),
        },
        other => Err(("port.protocol", format!("{other:?} is not a protocol of a Gateway"))),
    };
    let wire = match wire {
        Ok(wire) => wire,
        Err((field, message)) => {
            error(
                field,
                message,
                "use HTTP, HTTPS, TLS or TCP with a tls mode of SIMPLE, MUTUAL, OPTIONAL_MUTUAL or PASSTHROUGH",
            );
            return None;
        }
    };
    let hosts: Vec<ServerHost> = server.hosts.iter().map(|host| server_host(host, &r.key.namespace)).collect();
    if hosts.is_empty() {
        error("hosts", "a server needs at least one host".into(), "add hosts: [\"*\"]");
        return None;
    }
    let redirect = matches!(wire, Wire::Http) && tls.is_some_and(|tls| tls.https_redirect);
    Some(ServerPlan { at: at.to_owned(), port, wire, hosts, redirect, listener: None })
}

/// `ns/host`, `./host`, `*/host`, `host`
fn server_host(text: &str, own: &Arc<str>) -> ServerHost {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    let namespace = match namespace {
        "*" => None,
        "." => Some(Arc::clone(own)),
        named => Some(named.into()),
    };
    ServerHost { namespace, host: host.to_ascii_lowercase().into() }
}

/// `PASSTHROUGH` is what an empty mode means (gateway.proto).
fn terminate(tls: &ServerTls, at: &str, wire: fn(TlsPlan) -> Wire) -> Result<Wire, (&'static str, String)> {
    let mutual = match &*tls.mode {
        "" | "PASSTHROUGH" => return Ok(Wire::Passthrough),
        "SIMPLE" => None,
        "MUTUAL" => Some(ClientPlan::Required as fn(CaPlan) -> ClientPlan),
        "OPTIONAL_MUTUAL" => Some(ClientPlan::Optional as fn(CaPlan) -> ClientPlan),
        other => return Err(("tls.mode", format!("{other} is not supported"))),
    };
    let credential = |field: &str, name: &Arc<str>| Credential {
        at: format!("{at}.tls.{field}"),
        namespace: None,
        // `kubernetes://name` is the long form.
        name: name.strip_prefix("kubernetes://").map_or_else(|| Arc::clone(name), Into::into),
    };
    let credentials: Vec<Credential> = if tls.credential_names.is_empty() {
        let one = Some(&tls.credential_name).filter(|name| !name.is_empty());
        one.map(|name| credential("credentialName", name)).into_iter().collect()
    } else {
        tls.credential_names.iter().enumerate().map(|(i, n)| credential(&format!("credentialNames[{i}]"), n)).collect()
    };
    let files = (credentials.is_empty() && !tls.server_certificate.is_empty()).then(|| TlsFiles {
        certificate: (&*tls.server_certificate).into(),
        key: (&*tls.private_key).into(),
        ca: Some(&*tls.ca_certificates).filter(|path| !path.is_empty()).map(Into::into),
    });
    if credentials.is_empty() && files.is_none() {
        return Err(("tls", "no certificate is named".into()));
    }
    let ca = match credentials.first() {
        _ if !tls.ca_cert_credential_name.is_empty() => {
            CaPlan::Secret(credential("caCertCredentialName", &tls.ca_cert_credential_name))
        }
        Some(first) => CaPlan::Secret(first.clone()),
        None => CaPlan::Files,
    };
    Ok(wire(TlsPlan {
        credentials,
        files,
        clients: mutual.map_or(ClientPlan::None, |mutual| mutual(ca)),
        min: version(&tls.min_protocol_version, TlsVersion::V1_2),
        max: version(&tls.max_protocol_version, TlsVersion::V1_3),
    }))
}

fn version(text: &str, default: TlsVersion) -> TlsVersion {
    match text {
        "TLSV1_3" => TlsVersion::V1_3,
        // Older ones are not spoken.
        "TLSV1_2" | "TLSV1_1" | "TLSV1_0" => TlsVersion::V1_2,
        _ => default,
    }
}
