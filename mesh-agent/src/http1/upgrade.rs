//! Protocol upgrades (RFC 9110 §7.8) and CONNECT: after the heads, bytes both ways.

use crate::costs;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// One side's promise to become plain bytes.
#[derive(Debug)]
pub struct Upgrade(OnUpgrade);

/// Whether the request asks for another protocol on its connection.
pub(super) fn wants_upgrade(method: &Method, headers: &HeaderMap) -> bool {
    let named = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
    };
    *method == Method::CONNECT || (headers.contains_key(UPGRADE) && headers.get_all(CONNECTION).iter().any(named))
}

impl Upgrade {
    /// The client's side of a request that asks for another protocol; to be taken before the request is passed on.
    pub fn of_request(request: &mut request::Parts) -> Option<Self> {
        wants_upgrade(&request.method, &request.headers).then(|| request.extensions.remove().map(Self))?
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
    costs::spawn(async move {
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
