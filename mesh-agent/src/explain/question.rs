//! What is asked: one request, as a person writes it, in the terms of the data path.

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, request};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A request (or a connection) of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The client, in one of the forms of [`super::source::FORMS`]; empty: some pod of `default`.
    #[serde(default)]
    pub from: String,
    /// `namespace/name` of the Gateway that the request comes to, instead of a client in the mesh.
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub method: Option<String>,
    /// `reviews:9080/path`, `http://…`, `https://…`, `grpc://…`, `tcp://…`, `tls://…`
    pub url: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Instead of the URL's.
    #[serde(default)]
    pub port: Option<u16>,
    /// The name in a TLS client's ClientHello, where it is not the URL's host.
    #[serde(default)]
    pub sni: Option<String>,
    /// What the client's DNS says, where that is not what the configuration does.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// Why a question has no answer: what is wrong with it and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// What the client speaks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    /// A TLS session of its own; the agent sees the SNI.
    Tls,
    Tcp,
}

/// A question that was understood.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) speaks: Speaks,
    /// The client does TLS; a gateway may terminate it.
    pub(super) https: bool,
    /// The name in its ClientHello, lower case: none for an address (RFC 6066 §3).
    pub(super) sni: Option<String>,
    /// Where the client connects to: a name or an address, without port.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) parts: request::Parts,
}

impl Asked {
    /// # Errors
    /// A part that cannot be in a request.
    pub(super) fn new(question: &Question) -> Result<Self, Wrong> {
        let url = question.url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (speaks, https, port) = match scheme {
            "http" | "grpc" => (Speaks::Http, false, 80),
            // To a gateway it is HTTP, once TLS is terminated.
            "https" | "grpcs" if question.gateway.is_some() => (Speaks::Http, true, 443),
            "https" | "grpcs" | "tls" => (Speaks::Tls, true, 443),
            "tcp" => (Speaks::Tcp, false, 0),
            other => {
                let known = "http, https, grpc, grpcs, tls, tcp";
                return Err(Wrong(format!("`{other}://` is no scheme that is known here; there are: {known}")));
            }
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = (rest.get(..end).unwrap_or_default(), rest.get(end..).unwrap_or_default());
        let written: http::uri::Authority =
            authority.parse().map_err(|_| Wrong(format!("`{authority}` is no host; write http://host:port/path")))?;
        let port = question.port.or(written.port_u16()).or((port != 0 && url.contains("://")).then_some(port));
        let grpc = scheme.starts_with("grpc");
        let http2 = grpc || https;
        let mut parts = head(question, authority, target, if https { "https" } else { "http" }, http2)?;
        if grpc && !parts.headers.contains_key(CONTENT_TYPE) {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        if question.method.is_none() && crate::grpc::is_grpc(&parts.headers) {
            parts.method = Method::POST;
        }
        let host = written.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if question.sni.is_some() && !https {
            return Err(Wrong(format!("an SNI is sent in TLS only; write https:// or tls:// instead of {scheme}://")));
        }
        let name = question.sni.as_deref().or(Some(&*host).filter(|host| host.parse::<IpAddr>().is_err()));
        let sni = name.filter(|_| https).map(str::to_ascii_lowercase);
        Ok(Self { speaks, https, sni, host, port, parts })
    }
}

/// The head as a client sends it: HTTP/1.1 with `Host`, or HTTP/2 with pseudo header fields.
fn head(
    question: &Question,
    authority: &str,
    target: &str,
    scheme: &str,
    http2: bool,
) -> Result<request::Parts, Wrong> {
    let target = match target {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    let method = question.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Wrong(format!("`{method}` is no HTTP method")))?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    for (name, value) in &question.headers {
        let bad = |what: &str| Wrong(format!("`{name}: {value}` is no header field: its {what} is malformed"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| bad("name"))?;
        let value = HeaderValue::try_from(value.as_str()).map_err(|_| bad("value"))?;
        parts.headers.append(name, value);
    }
    // As curl has it: `-H 'Host: …'` is what is asked for, the URL where the connection goes.
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or(authority).to_owned();
    let bad = |_| Wrong(format!("`{target}` is no path"));
    parts.uri = if http2 {
        parts.version = Version::HTTP_2;
        parts.headers.remove(HOST);
        Uri::builder().scheme(scheme).authority(host.as_str()).path_and_query(target.as_str()).build().map_err(bad)?
    } else {
        let value = HeaderValue::try_from(host.as_str()).map_err(|_| Wrong(format!("`{host}` is no host")))?;
        parts.headers.insert(HOST, value);
        Uri::builder().path_and_query(target.as_str()).build().map_err(bad)?
    };
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Head;

    fn asked(url: &str) -> Asked {
        Asked::new(&Question { url: url.into(), ..Question::default() }).unwrap()
    }

    #[test]
    fn a_url_says_host_port_and_protocol() {
        for (url, speaks, host, port, authority, target) in [
            ("reviews:9080/r/1?x=1", Speaks::Http, "reviews", Some(9080), "reviews:9080", "/r/1?x=1"),
            ("reviews", Speaks::Http, "reviews", None, "reviews", "/"),
            ("http://a.b", Speaks::Http, "a.b", Some(80), "a.b", "/"),
            ("http://[::1]:81?q", Speaks::Http, "::1", Some(81), "[::1]:81", "/?q"),
            ("https://a.b/x", Speaks::Tls, "a.b", Some(443), "a.b", "/x"),
            ("tcp://db:5432", Speaks::Tcp, "db", Some(5432), "db:5432", "/"),
            ("grpc://pay:50051/shop.Pay/Do", Speaks::Http, "pay", Some(50051), "pay:50051", "/shop.Pay/Do"),
        ] {
            let asked = asked(url);
            let head = Head::of(&asked.parts);
            assert_eq!((asked.speaks, &*asked.host, asked.port), (speaks, host, port), "{url}");
            assert_eq!((head.authority, head.target), (authority, target), "{url}");
        }
        assert_eq!(asked("grpc://pay/x").parts.method, Method::POST);
    }

    #[test]
    fn host_is_what_is_asked_for_and_the_url_where_the_connection_goes() {
        let headers = vec![("Host".to_owned(), "reviews".to_owned()), ("a".to_owned(), "1".to_owned())];
        let question = Question { url: "http://10.0.0.1:9080/".into(), headers, ..Question::default() };
        let asked = Asked::new(&question).unwrap();
        assert_eq!((&*asked.host, Head::of(&asked.parts).authority), ("10.0.0.1", "reviews"));
        assert_eq!(asked.parts.headers["a"], "1");
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        for (url, method, header, want) in [
            ("ftp://a", "GET", ("a", "b"), "scheme"),
            ("http:///x", "GET", ("a", "b"), "host"),
            ("http://a/ b", "GET", ("a", "b"), "path"),
            ("http://a", "G T", ("a", "b"), "method"),
            ("http://a", "GET", ("a b", "b"), "header"),
        ] {
            let question = Question {
                url: url.into(),
                method: Some(method.into()),
                headers: vec![(header.0.into(), header.1.into())],
                ..Question::default()
            };
            let wrong = Asked::new(&question).unwrap_err().to_string();
            assert!(wrong.contains(want), "{url}: {wrong}");
        }
    }
}
