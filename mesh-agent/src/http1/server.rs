//! The server side: a client's connection, one request after another.

use super::RecvBody;
use crate::body::Body;
use crate::error::UpstreamError;
use crate::settings::Settings;
use http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves a connection until it ends, or after `drain` until its current request ends.
///
/// # Errors
/// The client broke the protocol or its connection.
pub async fn serve<T, H, F>(
    io: T,
    settings: &Settings,
    drain: impl Future<Output = ()>,
    handler: H,
) -> Result<(), UpstreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = handler(request.map(|incoming| {
            if http_body::Body::is_end_stream(&incoming) { Body::Empty } else { RecvBody::request(incoming).into() }
        }));
        async move { Ok::<_, Infallible>(answer.await) }
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
        () = drain => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Closed })
}
