//! What a port speaks (SEMANTICS §7; Istio's `pkg/config/kube/conversion.go` restated).

use crate::config::resource::ServicePort;
use crate::snapshot::Protocol;

/// The protocol, and whether somebody declared it.
pub(super) fn protocol(port: &ServicePort) -> (Protocol, Declared) {
    if !port.app_protocol.is_empty() {
        return match app_protocol(&port.app_protocol) {
            Some(protocol) => (protocol, Declared::Yes),
            // `appProtocol` overrides the name, even where we do not know it.
            None => (by_number(port.port).unwrap_or(Protocol::Detect), Declared::UnknownAppProtocol),
        };
    }
    if let Some(protocol) = by_name(&port.name) {
        return (protocol, Declared::Yes);
    }
    match by_number(port.port) {
        Some(protocol) => (protocol, Declared::Yes),
        None if port.name.is_empty() => (Protocol::Detect, Declared::No),
        None => (Protocol::Detect, Declared::UnknownName),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Yes,
    /// Neither name nor appProtocol.
    No,
    UnknownName,
    UnknownAppProtocol,
}

fn app_protocol(value: &str) -> Option<Protocol> {
    match value.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" => Some(Protocol::Http2),
        "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/wss" => Some(Protocol::Tls),
        other => by_name(other),
    }
}

/// Of a ServiceEntry's port: its protocol, else its name, else its number; none for a protocol that is not known.
pub(super) fn declared(protocol: &str, name: &str, number: u16) -> Option<Protocol> {
    if protocol.is_empty() {
        return Some(by_name(name).or_else(|| by_number(number.into())).unwrap_or(Protocol::Detect));
    }
    by_name(protocol)
}

/// `<protocol>[-suffix]`, case-blind.
fn by_name(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    // Before the split at the first dash, which would make it `grpc`.
    if name.starts_with("grpc-web") {
        return Some(Protocol::GrpcWeb);
    }
    match name.split('-').next().unwrap_or("") {
        "http" => Some(Protocol::Http),
        "http2" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "https" | "tls" => Some(Protocol::Tls),
        // A TCP port called `udp-…` is opaque to us.
        "tcp" | "mongo" | "redis" | "mysql" | "udp" => Some(Protocol::Tcp),
        _ => None,
    }
}

/// Server-first protocols on their well-known ports: SMTP, DNS over TCP, MySQL, MongoDB.
fn by_number(port: i64) -> Option<Protocol> {
    matches!(port, 25 | 53 | 3306 | 27017).then_some(Protocol::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, app: &str, port: i64) -> (Protocol, Declared) {
        let port = ServicePort { name: name.into(), app_protocol: app.into(), port, ..ServicePort::default() };
        protocol(&port)
    }

    #[test]
    fn names_app_protocols_and_numbers() {
        use Declared::{No, UnknownAppProtocol, UnknownName, Yes};
        use Protocol::{Detect, Grpc, GrpcWeb, Http, Http2, Tcp, Tls};
        for (name, app, port, want) in [
            ("http", "", 80, (Http, Yes)),
            ("HTTP-api", "", 80, (Http, Yes)),
            ("http2-x", "", 80, (Http2, Yes)),
            ("grpc", "", 80, (Grpc, Yes)),
            ("grpc-web", "", 80, (GrpcWeb, Yes)),
            ("grpc-web-a", "", 80, (GrpcWeb, Yes)),
            ("grpc-website", "", 80, (GrpcWeb, Yes)), // Istio's prefix check does this too
            ("https", "", 443, (Tls, Yes)),
            ("mongo", "", 1, (Tcp, Yes)),
            ("httpx", "", 80, (Detect, UnknownName)),
            ("web", "", 3306, (Tcp, Yes)),
            ("", "", 27017, (Tcp, Yes)),
            ("", "", 8080, (Detect, No)),
            ("tcp", "http", 80, (Http, Yes)),
            ("tcp", "kubernetes.io/h2c", 80, (Http2, Yes)),
            ("tcp", "kubernetes.io/ws", 80, (Http, Yes)),
            ("http", "kubernetes.io/wss", 80, (Tls, Yes)),
            ("http", "example.com/custom", 80, (Detect, UnknownAppProtocol)),
        ] {
            assert_eq!(of(name, app, port), want, "{name} {app} {port}");
        }
    }
}
