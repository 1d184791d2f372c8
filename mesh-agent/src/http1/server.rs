//! The server side: a client's connection, one request after another.

use super::RecvBody;
use super::upgrade::wants_upgrade;
use crate::body::Body;
use crate::drain::Watch;
use crate::error::UpstreamError;
use crate::settings::Settings;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves a connection until it ends. Once `drain` has started the next answer says `connection: close` and is the last
/// (RFC 9112 §9.6); without a request the connection stays for the grace, since one may be under way.
///
/// # Errors
/// The client broke the protocol or its connection.
pub async fn serve<T, H, F>(io: T, settings: &Settings, mut drain: Watch, handler: H) -> Result<(), UpstreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let closing = drain.clone();
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        // What becomes a tunnel has no next request.
        let tunnel = wants_upgrade(request.method(), request.headers());
        let answer = handler(request.map(|incoming| {
            if http_body::Body::is_end_stream(&incoming) {
                Body::Empty
            } else {
                RecvBody::request(incoming, settings.send_buffer).into()
            }
        }));
        let closing = &closing;
        async move {
            let mut response = answer.await;
            if closing.has_started() && !tunnel {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .preserve_header_case(true)
            .auto_date_header(false)
            .timer(TokioTimer::new())
            .header_read_timeout(settings.idle)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.grace_over() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Closed })
}
