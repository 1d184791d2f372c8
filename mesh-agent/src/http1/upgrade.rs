//! Protocol upgrades (RFC 9110 §7.8) and CONNECT: after the heads, bytes both ways.

use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// One side's promise to become plain bytes.
#[derive(Debug)]
pub struct Upgrade(OnUpgrade);

/// Whether the request asks for another protocol on its connection.
pub fn wants_upgrade<B>(request: &Request<B>) -> bool {
    let named = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
    };
    request.method() == Method::CONNECT
        || (request.headers().contains_key(UPGRADE) && request.headers().get_all(CONNECTION).iter().any(named))
}

impl Upgrade {
    /// Must be taken before the request is passed on.
    pub fn of_request<B>(request: &mut Request<B>) -> Self {
        Self(hyper::upgrade::on(request))
    }

    /// `None` where the endpoint answered something else.
    pub fn of_response<B>(response: &mut Response<B>, method: &Method) -> Option<Self> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (*method == Method::CONNECT && response.status().is_success());
        switched.then(|| Self(hyper::upgrade::on(response)))
    }
}

/// Copies bytes both ways until both sides have closed, in a task of its own.
pub fn tunnel(client: Upgrade, endpoint: Upgrade) {
    tokio::task::spawn_local(async move {
        let (client, endpoint) = match tokio::try_join!(client.0, endpoint.0) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                return;
            }
        };
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await {
            tracing::debug!(%error, "upgraded connection ended");
        }
    });
}
