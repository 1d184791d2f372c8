//! One attempt at one endpoint.

use super::Conn;
use super::exchange::Inform;
use crate::body::Body;
use crate::connect::Way;
use crate::destination::Target;
use crate::error::Failure;
use crate::http1;
use crate::snapshot::Protocol;
use crate::snapshot::policy::H2Upgrade;
use crate::telemetry::Served;
use http::header::HOST;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version, request};
use std::future::poll_fn;

/// Sends a request's head and body to an endpoint and waits for the response's head.
///
/// `upgrade`: the client's side of a protocol switch, taken by the attempt that makes it. `served`: is told when the
/// endpoint may have seen the request.
///
/// # Errors
/// Whatever keeps the endpoint's answer from us; the body may have been read in part.
#[expect(clippy::too_many_arguments, reason = "what one attempt takes, each used once")]
pub(super) async fn attempt(
    conn: &Conn,
    target: &Target,
    way: &Way<'_>,
    parts: &request::Parts,
    body: Body,
    upgrade: &mut Option<http1::Upgrade>,
    inform: &mut Inform,
    served: &mut Option<Served>,
) -> Result<Response<Body>, Failure> {
    if speaks_http2(target, parts) {
        attempt_http2(conn, way, parts, body, inform, served).await
    } else {
        // Boxed: larger than the other, and each waits in the place of both.
        Box::pin(attempt_http1(conn, way, parts, body, upgrade, served)).await
    }
}

/// On `http` ports the upstream follows the client unless a policy upgrades it; `http2`, `grpc` and `grpc-web` ports speak
/// HTTP/2 whatever the client does.
fn speaks_http2(target: &Target, parts: &request::Parts) -> bool {
    match target.protocol {
        Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => true,
        _ if target.policy.pool.use_client_protocol => parts.version == Version::HTTP_2,
        _ => parts.version == Version::HTTP_2 || target.policy.pool.upgrade == H2Upgrade::Upgrade,
    }
}

async fn attempt_http2(
    conn: &Conn,
    way: &Way<'_>,
    parts: &request::Parts,
    body: Body,
    inform: &mut Inform,
    served: &mut Option<Served>,
) -> Result<Response<Body>, Failure> {
    let lease = conn.ctx.pools.http2(way).await?;
    served.iter_mut().zip(lease.link()).for_each(|(served, link)| served.over(link, way.to));
    let head = http2_head(parts)?;
    let mut call = lease.send(head, body).map_err(|(error, _)| error)?;
    served.iter_mut().for_each(Served::sent);
    let response = poll_fn(|cx| {
        call.poll_response(cx, &mut |head| {
            if let Some(inform) = inform {
                inform(head);
            }
        })
    });
    Ok(response.await?)
}

async fn attempt_http1(
    conn: &Conn,
    way: &Way<'_>,
    parts: &request::Parts,
    body: Body,
    upgrade: &mut Option<http1::Upgrade>,
    served: &mut Option<Served>,
) -> Result<Response<Body>, Failure> {
    let sender = conn.ctx.pools.http1(way).await?;
    served.iter_mut().zip(sender.link()).for_each(|(served, link)| served.over(link, way.to));
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers.clone();
    // The client's spelling of header names travels as an extension.
    *request.extensions_mut() = parts.extensions.clone();
    http1::strip_hop_by_hop(request.headers_mut(), upgrade.is_some());
    served.iter_mut().for_each(Served::sent);
    let mut response = sender.send(request).await.map_err(|(error, _)| error)?;
    let endpoint_side = http1::Upgrade::of_response(&mut response, &parts.method);
    let switched = endpoint_side.is_some();
    if let Some(endpoint) = endpoint_side
        && let Some(client) = upgrade.take()
    {
        http1::tunnel(client, endpoint);
    }
    http1::strip_hop_by_hop(response.headers_mut(), switched);
    Ok(response)
}

/// The head for an HTTP/2 endpoint: of an HTTP/2 client as it is, of an HTTP/1.1 client translated (RFC 9113 §8.3.1).
fn http2_head(parts: &request::Parts) -> Result<Request<()>, Failure> {
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = parts.headers.clone();
    if parts.version == Version::HTTP_2 {
        *head.uri_mut() = parts.uri.clone();
        // Extended CONNECT's `:protocol` (RFC 8441) travels as an extension.
        *head.extensions_mut() = parts.extensions.clone();
        return Ok(head);
    }
    if parts.method == Method::CONNECT {
        return Err(Failure::BadRequest("CONNECT is not translated to HTTP/2"));
    }
    http1::strip_hop_by_hop(head.headers_mut(), false);
    let host = head.headers_mut().remove(HOST);
    let authority = match (parts.uri.authority(), &host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest("malformed host"))?
        }
        (None, None) => return Err(Failure::BadRequest("no host")),
    };
    let mut uri = Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| Failure::BadRequest("malformed target"))?;
    Ok(head)
}
