//! Cross-origin requests (Fetch standard §3.2; SEMANTICS §3 "CORS", Envoy's cors filter).

use super::Head;
use super::matching::text;
use crate::snapshot::route::Cors;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
};
use http::{HeaderMap, Method};

/// Who asks, where the rule allows it: keep it for [`response`].
pub fn allowed_origin(cors: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    // A rule that matches `*` itself allows everybody (Envoy).
    let allowed = cors.allow_origins.iter().any(|rule| text(rule, b"*") || text(rule, origin.as_bytes()));
    allowed.then(|| origin.clone())
}

/// The header fields of the 200 that answers a preflight here; `None`: the request goes on to the endpoint.
pub fn preflight(cors: &Cors, head: &Head<'_>) -> Option<HeaderMap> {
    let asks = head.method == Method::OPTIONS.as_str()
        && head.headers.contains_key(ORIGIN)
        && head.headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| !method.is_empty());
    if !asks {
        return None;
    }
    let origin = allowed_origin(cors, head.headers);
    if origin.is_none() && cors.forward_unmatched_preflights {
        return None;
    }
    // An origin that is not allowed reads everything but its permission (Envoy).
    let mut fields = HeaderMap::new();
    if let Some(origin) = origin {
        response(cors, origin, &mut fields);
    }
    if cors.allow_credentials {
        fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(methods) = &cors.allow_methods {
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
    }
    if cors.allow_any_header {
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(HeaderValue::from_static("")));
    } else if let Some(headers) = &cors.allow_headers {
        fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    if let Some(age) = cors.max_age {
        fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    Some(fields)
}

/// Opens a response to the origin that may read it.
pub fn response(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(exposed) = &cors.expose_headers {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
    }
}
