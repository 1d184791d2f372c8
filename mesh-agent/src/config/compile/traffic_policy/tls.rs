//! `tls` of a DestinationRule's traffic policy (SEMANTICS §5 "TLS (client)").

use super::{Out, wire};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::destination_rule::Spec;
use crate::config::resource::{Kind, ObjectKey, Resource, Secret};
use crate::identity::{Certificate, TrustAnchors};
use crate::snapshot::policy::{ClientTls, ClientTlsMode};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Finds a Secret.
pub(in super::super) type Secrets<'a> = dyn Fn(&ObjectKey) -> Option<Secret> + 'a;

/// The Secrets that a rule names, there or not.
pub(in super::super) fn credentials(r: &Resource, spec: &Spec) -> BTreeSet<ObjectKey> {
    let policies = spec.traffic_policy.iter().chain(spec.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
    let all = policies.flat_map(|p| p.tls.iter().chain(p.port_level_settings.iter().filter_map(|p| p.tls.as_ref())));
    let named = all.filter(|tls| !tls.credential_name.is_empty());
    let key = |name: &str| ObjectKey::new(Kind::Secret, &r.key.namespace, name);
    named.flat_map(|tls| [key(&tls.credential_name), key(&format!("{}-cacert", tls.credential_name))]).collect()
}

pub(super) fn client_tls(tls: &wire::ClientTls, at: &str, out: &mut Out<'_>) -> Option<ClientTls> {
    let mode = match &*tls.mode {
        "" | "DISABLE" => ClientTlsMode::Disable,
        "SIMPLE" => ClientTlsMode::Simple,
        "MUTUAL" => ClientTlsMode::Mutual,
        "ISTIO_MUTUAL" => ClientTlsMode::IstioMutual,
        other => {
            let fix = "write DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL";
            out.error(&format!("{at}.mode"), format!("{other:?} is not one we know; there is no TLS setting"), fix);
            return None;
        }
    };
    if mode == ClientTlsMode::IstioMutual {
        let message = "mTLS between pods is not spoken yet: requests are sent as without this block";
        out.not_supported(&format!("{at}.mode"), message, "none needed where plain text will do");
    }
    let some = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
    let files = tls.credential_name.is_empty();
    if mode == ClientTlsMode::Mutual && files && (tls.client_certificate.is_empty() || tls.private_key.is_empty()) {
        let fix = "write clientCertificate and privateKey, or credentialName";
        out.error(at, "MUTUAL without a certificate of the client", fix);
    }
    let secured = matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    let (identity, anchors) = if secured && !files { of_secret(tls, mode, at, out) } else { (None, None) };
    Some(ClientTls {
        mode,
        identity,
        anchors,
        sni: some(&tls.sni),
        subject_alt_names: tls.subject_alt_names.clone(),
        credential: some(&tls.credential_name),
        ca_certificates: some(&tls.ca_certificates),
        client_certificate: some(&tls.client_certificate),
        private_key: some(&tls.private_key),
        insecure_skip_verify: tls.insecure_skip_verify.unwrap_or(false),
        rule: out.reference(at),
    })
}

/// The client's certificate (`MUTUAL`) and whom it believes: `tls.crt`, `tls.key`, `ca.crt`, the last also in a Secret
/// `<name>-cacert` beside it. What is missing fails handshakes; a finding says why.
fn of_secret(
    tls: &wire::ClientTls,
    mode: ClientTlsMode,
    at: &str,
    out: &mut Out<'_>,
) -> (Option<Arc<Certificate>>, Option<Arc<TrustAnchors>>) {
    let name = &*tls.credential_name;
    let namespace = out.object.map_or_else(|| "".into(), |object| Arc::clone(&object.namespace));
    let secrets = out.secrets;
    let get = |name: &str| secrets(&ObjectKey::new(Kind::Secret, &namespace, name));
    let full = |suffix: &str| format!("{namespace}/{name}{suffix}");
    let mut complain = |why: String| {
        let message = format!("Secret {name}: {why}; connections to the endpoints fail without it");
        let diagnostic = Diagnostic::error(Code::BadCertificate, message);
        out.say(
            diagnostic,
            &format!("{at}.credentialName"),
            "make the Secret (tls.crt, tls.key, ca.crt) in the rule's namespace",
        );
    };
    let Some(secret) = get(name) else {
        complain("there is none of this name".into());
        return (None, None);
    };
    let identity = (mode == ClientTlsMode::Mutual).then(|| {
        let (chain, key) = (secret.certificate(), secret.key());
        let pair = chain.and_then(|chain| Ok((chain, key?))).map_err(|error| error.to_string());
        let made = pair.and_then(|(chain, key)| Certificate::from_pem(chain, key).map_err(|error| error.to_string()));
        made.map(|certificate| certificate.of_secret(&full("")))
    });
    let own = secret.ca().map(|pem| (full(""), pem));
    let ca = own.or_else(|error| match get(&format!("{name}-cacert")) {
        Some(beside) => beside.ca().map(|pem| (full("-cacert"), pem)),
        None => Err(error),
    });
    let anchors = ca.map_err(|error| error.to_string()).and_then(|(secret, pem)| {
        let anchors = TrustAnchors::from_pem(pem).map_err(|error| error.to_string())?;
        Ok(anchors.of_secret(&secret))
    });
    let identity = identity.and_then(|made| made.map_err(&mut complain).ok());
    let unverified = tls.insecure_skip_verify.unwrap_or(false);
    let anchors = if unverified { anchors.ok() } else { anchors.map_err(&mut complain).ok() };
    (identity.map(Arc::new), anchors.map(Arc::new))
}
