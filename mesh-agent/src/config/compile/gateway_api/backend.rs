//! `backendRefs`: to which port of which Service, or why not.

use super::filters;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::BackendRef;
use crate::snapshot::ServiceName;
use crate::snapshot::route::{Backend, BackendTo, Destination, HeaderOps};
use http::StatusCode;
use std::sync::Arc;

/// Who refers, and what it may know of the rest of the configuration.
pub(super) struct Referrer<'a> {
    /// `HTTPRoute`, `GRPCRoute`
    pub(super) kind: &'static str,
    pub(super) namespace: &'a Arc<str>,
    pub(super) domain: &'a str,
    /// Whether the Service exists and has the port.
    pub(super) has_port: &'a dyn Fn(&ServiceName, u16) -> Option<bool>,
    /// Whether a ReferenceGrant of the Service's namespace lets the referrer in.
    pub(super) granted: &'a dyn Fn(&ServiceName) -> bool,
}

/// Why a reference cannot be used, with the API's reason (`RouteConditionReason`).
#[derive(Debug)]
pub(super) struct Refusal {
    reason: &'static str,
    message: String,
    fix: String,
}

impl Refusal {
    pub(super) fn diagnostic(&self, consequence: &str) -> Diagnostic {
        let code = if self.reason == "RefNotPermitted" { Code::RefNotPermitted } else { Code::BadReference };
        let message = format!("{}: {}; {consequence}", self.reason, self.message);
        Diagnostic::error(code, message).fix(self.fix.clone())
    }
}

/// All backends with a weight; shares that cannot be served get 500 (HTTPRouteRule.backendRefs).
pub(super) fn backends(
    list: &[BackendRef],
    path: &str,
    referrer: &Referrer<'_>,
    found: &mut Vec<Diagnostic>,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for (i, reference) in list.iter().enumerate().filter(|(_, reference)| reference.weight > 0) {
        let path = format!("{path}[{i}]");
        backends.push(backend(reference, &path, referrer, found));
    }
    backends
}

fn backend(reference: &BackendRef, path: &str, referrer: &Referrer<'_>, found: &mut Vec<Diagnostic>) -> Backend {
    let weight = reference.weight;
    let refused = |why: &str| Backend {
        weight,
        to: BackendTo::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, why: why.into() },
        headers: HeaderOps::default(),
        mirrors: Vec::new(),
    };
    let to = match destination(reference, referrer) {
        Ok(to) => to,
        Err(refusal) => {
            found.push(refusal.diagnostic("its share of requests is answered 500").field(path));
            return refused(refusal.reason);
        }
    };
    let service = ServiceName { namespace: namespace(reference, referrer), name: Arc::clone(&reference.name) };
    let known = to.port.filter(|_| is_service(reference)).map(|port| (port, (referrer.has_port)(&service, port)));
    let missing = match known {
        Some((_, None)) => Some((format!("there is no Service {service}"), "add the Service, or correct the name")),
        Some((port, Some(false))) => Some((
            format!("Service {service} has no TCP port {port}"),
            "correct the port: it is the Service's, not the pods'",
        )),
        Some((_, Some(true))) | None => None,
    };
    if let Some((what, fix)) = missing {
        // The Service may come without this route changing: the request decides.
        let message = format!("BackendNotFound: {what}; its share of requests is answered 500");
        found.push(Diagnostic::warning(Code::ReferencedResourceNotFound, message).field(path).fix(fix));
    }
    let list = format!("{path}.filters");
    match filters::filters(&reference.filters, &list, referrer, found) {
        Ok(made) if made.redirect.is_none() && made.rewrite.is_none() && made.cors.is_none() => {
            Backend { weight, to: BackendTo::Service(to), headers: made.headers(), mirrors: made.mirrors }
        }
        Ok(_) => {
            let message = "UnsupportedValue: a backend's filters change headers or mirror, nothing else; \
                           its share of requests is answered 500";
            let fix = "move the filter to the rule";
            found.push(Diagnostic::error(Code::UnsupportedFilter, message).field(list).fix(fix));
            refused("UnsupportedValue")
        }
        Err(invalid) => {
            let message = format!("UnsupportedValue: {}; its share of requests is answered 500", invalid.message);
            let field = format!("{list}{}", invalid.field);
            found.push(Diagnostic::error(Code::UnsupportedFilter, message).field(field).fix(invalid.fix));
            refused("UnsupportedValue")
        }
    }
}

/// # Errors
/// The kind is not ours, there is no port, or no ReferenceGrant lets the route out of its namespace.
pub(super) fn destination(reference: &BackendRef, referrer: &Referrer<'_>) -> Result<Destination, Refusal> {
    if &*reference.group == "networking.istio.io" && &*reference.kind == "Hostname" {
        let host = reference.name.to_ascii_lowercase().into();
        return Ok(Destination { host, port: reference.port, subset: None });
    }
    if !is_service(reference) {
        return Err(Refusal {
            reason: "InvalidKind",
            message: format!("a backend of kind {} (group {:?}) is not supported", reference.kind, &*reference.group),
            fix: "name a Service".into(),
        });
    }
    let service = ServiceName { namespace: namespace(reference, referrer), name: Arc::clone(&reference.name) };
    let Some(port) = reference.port else {
        return Err(Refusal {
            reason: "BackendNotFound",
            message: format!("no port of Service {service} is named"),
            fix: "add the Service's port".into(),
        });
    };
    if service.namespace != *referrer.namespace && !(referrer.granted)(&service) {
        return Err(Refusal {
            reason: "RefNotPermitted",
            message: format!("Service {service} is in another namespace and no ReferenceGrant there allows this route"),
            fix: format!(
                "add a ReferenceGrant in namespace {} from {} of {} to Service {}",
                service.namespace, referrer.kind, referrer.namespace, service.name
            ),
        });
    }
    Ok(Destination { host: service.host(referrer.domain).into(), port: Some(port), subset: None })
}

pub(super) fn is_service(reference: &BackendRef) -> bool {
    reference.group.is_empty() && &*reference.kind == "Service"
}

fn namespace(reference: &BackendRef, referrer: &Referrer<'_>) -> Arc<str> {
    Arc::clone(reference.namespace.as_ref().unwrap_or(referrer.namespace))
}
