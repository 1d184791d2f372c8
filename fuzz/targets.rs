//! What is fuzzed: everything that reads bytes of the network or of users. Each target takes any bytes, must not panic,
//! and checks what must hold whatever they are. Run by libFuzzer (`fuzz_targets/`) and by `mesh-agent/tests/fuzz.rs`.
#![allow(dead_code, unreachable_pub, reason = "each program runs one target")]

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use mesh_agent::balance::{RequestFacts, affinity};
use mesh_agent::body::{Body, Chunk, GrpcWeb};
use mesh_agent::config::compile::{Settings, compile};
use mesh_agent::config::resource::parse::parse;
use mesh_agent::detect::{Sniff, invalid_preface, sniff};
use mesh_agent::listen::tls;
use mesh_agent::route::rewrite;
use mesh_agent::snapshot::ServiceName;
use mesh_agent::snapshot::policy::HashKey;
use mesh_agent::snapshot::route::{PathMatch, PathRewrite, Pattern};
use mesh_agent::snapshot::tracing::Formats;
use mesh_agent::telemetry::trace::{Decision, extract, inject};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const HEALTHY: &str = "
apiVersion: v1
kind: Service
metadata: {name: healthy-neighbour, namespace: fuzz-healthy}
spec: {clusterIP: 10.96.255.1, ports: [{name: http, port: 80}]}
";

/// A file of Kubernetes objects → snapshot: whatever it says, an object of another file is in force.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = |name: &str, text: &str| parse(&Path::new(name).into(), text).resources;
    let both = [file("fuzzed.yaml", text), file("healthy.yaml", HEALTHY)];
    let settings = Settings { node: "n1".into(), cluster_domain: "cluster.local".into() };
    let (snapshot, diagnostics) = compile(settings, both.into_iter().flatten().map(Arc::new));
    diagnostics.iter().for_each(|diagnostic| drop(diagnostic.to_string()));
    if !text.contains("fuzz-healthy") {
        assert!(snapshot.service(&ServiceName::new("fuzz-healthy", "healthy-neighbour")).is_some());
    }
}

/// `pattern NUL text`: RE2's syntax; matching and replacing take linear time.
pub fn regex(data: &[u8]) {
    let Ok(both) = std::str::from_utf8(data) else { return };
    let (source, text) = both.split_once('\0').unwrap_or((both, "/reviews/1"));
    if let Ok(pattern) = Pattern::new(source) {
        assert_eq!(pattern.source(), source);
        let _ = pattern.is_match(text);
        let _ = pattern.is_match(&text.repeat(4));
    }
    if let Ok(pattern) = Pattern::new_unanchored(source)
        && pattern.check_replacement(text).is_ok()
    {
        let _ = pattern.replace_all("/service/foo/v1/api", text);
    }
}

/// `kind, matched NUL replacement NUL target`: what comes out is a request target.
pub fn rewrite(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut chars = text.chars();
    let kind = chars.next().unwrap_or_default();
    let mut parts = chars.as_str().splitn(3, '\0');
    let mut part = || parts.next().unwrap_or("/");
    let (matched, new, target) = (part(), part(), part());
    let Ok(target) = PathAndQuery::try_from(target) else { return };
    let rewrite = match kind {
        'p' => PathRewrite::Prefix(new.into()),
        's' => PathRewrite::SegmentPrefix(new.into()),
        'f' => PathRewrite::Full(new.into()),
        _ => match Pattern::new_unanchored(matched) {
            Ok(pattern) if pattern.check_replacement(new).is_ok() => {
                PathRewrite::Regex { pattern, replacement: new.into() }
            }
            _ => return,
        },
    };
    let value: Arc<str> = matched.into();
    for matched in [
        None,
        Some(PathMatch::Exact { value: Arc::clone(&value), ignore_case: false }),
        Some(PathMatch::Prefix { value: Arc::clone(&value), ignore_case: true }),
        Some(PathMatch::SegmentPrefix(value)),
    ] {
        let path = rewrite::path(&rewrite, matched.as_ref(), target.as_str());
        assert!(PathAndQuery::try_from(&*path).is_ok(), "{path:?} is no target");
    }
}

/// The first bytes of a connection: what is decided of few bytes stays so with more.
pub fn sniff_all(data: &[u8]) {
    let mut decided = Sniff::NeedMore;
    for length in 0..=data.len().min(64) {
        let now = sniff(data.get(..length).unwrap_or_default());
        assert!(decided == Sniff::NeedMore || decided == now, "{decided:?}, then {now:?}");
        decided = now;
    }
    let _ = invalid_preface(data);
}

/// A ClientHello, however it is cut into pieces: the same name.
pub fn hello(data: &[u8]) {
    let Some((&cut, rest)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut io = Pieces { rest, piece };
        let mut first = BytesMut::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.ok().and_then(|runtime| runtime.block_on(tls::hello(&mut io, &mut first)).ok())
    };
    // What follows a ClientHello may be read with it, and be wrong.
    if let (Some(pieces), Some(whole)) = (read(usize::from(cut).max(1)), read(usize::MAX)) {
        assert_eq!(pieces, whole);
    }
}

/// A gRPC-Web request's body, binary or base64: bytes or an error.
pub fn grpc_web(data: &[u8]) {
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(ACCEPT, HeaderValue::from_static(kind));
        let Some(web) = GrpcWeb::of(&headers) else { panic!("{kind}") };
        let mut request = Request::new(Body::Full(Bytes::copy_from_slice(data)));
        *request.headers_mut() = headers;
        let mut body = web.request(request).into_body();
        let (mut cx, mut length) = (Context::from_waker(Waker::noop()), 0);
        while let Poll::Ready(Some(Ok(chunk))) = body.poll_chunk(&mut cx) {
            let Chunk::Data(data) = chunk else { panic!("trailers out of nowhere") };
            body.release(data.len());
            length += data.len();
        }
        assert!(length <= data.len());
    }
}

/// `Cookie` fields, one a line: a hash, or a cookie that can be sent.
pub fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let addr = ([127, 0, 0, 1], 80).into();
    let facts = RequestFacts { headers: &headers, query: std::str::from_utf8(data).ok(), client: addr, local: addr };
    let key = HashKey::Cookie { name: "user".into(), path: Some("/".into()), ttl: Some(Duration::ZERO) };
    assert!(affinity(&key, &facts).hash.is_some());
    let _ = affinity(&HashKey::Query("user".into()), &facts);
}

/// A socket that gives `piece` bytes at a time.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl tokio::io::AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.rest.len().min(self.piece).min(buf.remaining());
        let (now, rest) = self.rest.split_at(count);
        buf.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// `name: value` lines as a request's head: what is read of a trace's context can be written and read again.
pub fn trace(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    for w3c_first in [true, false] {
        let found = extract(&headers, w3c_first);
        let Some(ids) = found.ids else { continue };
        let formats = found.formats.and(Formats { w3c: true, b3: true, b3_single: true });
        let decision = found.decision.unwrap_or(Decision::Record);
        let mut again = headers.clone();
        inject(&mut again, ids, Some(ids.span), decision, formats);
        for w3c_first in [true, false] {
            let read = extract(&again, w3c_first);
            assert_eq!(read.ids, Some(ids));
            assert_eq!(read.decision.map(Decision::is_recorded), Some(decision.is_recorded()));
        }
    }
}
