//! Secrets → certificates.

use super::plan::{CaPlan, ClientPlan, Credential, TlsPlan};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, ObjectKey, Secret};
use crate::identity::{Certificate, TrustAnchors};
use crate::snapshot::gateway::{ClientCertificates, ServerTls};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the search for Secrets may know, and what it asked.
pub(super) struct Secrets<'a> {
    pub(super) get: &'a dyn Fn(&ObjectKey) -> Option<Secret>,
    /// Of the gateway's pods.
    pub(super) pods: &'a Arc<str>,
    /// Of the Gateway object.
    pub(super) gateway: &'a Arc<str>,
    pub(super) asked: &'a mut BTreeSet<ObjectKey>,
}

/// Without a usable certificate the server is opened all the same: handshakes then fail, and the finding says why.
pub(super) fn server_tls(plan: &TlsPlan, secrets: &mut Secrets<'_>, found: &mut Vec<Diagnostic>) -> ServerTls {
    let (mut certificates, mut missing) = (Vec::new(), Vec::new());
    for credential in &plan.credentials {
        match certificate(credential, secrets) {
            Ok(certificate) => certificates.push(Arc::new(certificate)),
            Err(why) => {
                missing.push(format!("Secret {}: {why}", credential.name).into());
                found.push(unusable(credential, &why, "handshakes fail without it"));
            }
        }
    }
    let mut anchors = |ca: &CaPlan| match ca {
        CaPlan::Files => None,
        CaPlan::Secret(credential) => match trust_anchors(credential, secrets) {
            Ok(anchors) => Some(Arc::new(anchors)),
            Err(why) => {
                found.push(unusable(credential, &why, "no client certificate is believed"));
                Some(Arc::new(TrustAnchors::none().of_secret(&credential.name)))
            }
        },
    };
    ServerTls {
        clients: match &plan.clients {
            ClientPlan::None => ClientCertificates::None,
            ClientPlan::Optional(ca) => ClientCertificates::Optional(anchors(ca)),
            ClientPlan::Required(ca) => ClientCertificates::Required(anchors(ca)),
        },
        certificates,
        missing,
        files: plan.files.clone(),
        min: plan.min,
        max: plan.max,
    }
}

fn certificate(credential: &Credential, secrets: &mut Secrets<'_>) -> Result<Certificate, String> {
    let (name, secret) = find(credential, "", secrets).ok_or("there is no such Secret")?;
    let chain = secret.certificate().map_err(|error| error.to_string())?;
    let key = secret.key().map_err(|error| error.to_string())?;
    let certificate = Certificate::from_pem(chain, key).map_err(|error| error.to_string())?;
    Ok(certificate.of_secret(&name))
}

/// In the Secret itself, else in its neighbour `<name>-cacert`.
fn trust_anchors(credential: &Credential, secrets: &mut Secrets<'_>) -> Result<TrustAnchors, String> {
    let own = find(credential, "", secrets).and_then(|(name, secret)| Some((name, secret.ca().ok()?)));
    let (name, pem) = match own {
        Some(own) => own,
        None => {
            let (name, other) =
                find(credential, "-cacert", secrets).ok_or("there is no ca.crt in it, nor a Secret <name>-cacert")?;
            (name, other.ca().map_err(|error| error.to_string())?)
        }
    };
    Ok(TrustAnchors::from_pem(pem).map_err(|error| error.to_string())?.of_secret(&name))
}

/// With its `namespace/name`.
fn find(credential: &Credential, suffix: &str, secrets: &mut Secrets<'_>) -> Option<(String, Secret)> {
    let name = format!("{}{suffix}", credential.name);
    let places = match &credential.namespace {
        Some(namespace) => vec![namespace],
        None => vec![secrets.pods, secrets.gateway],
    };
    places.into_iter().find_map(|namespace| {
        let key = ObjectKey::new(Kind::Secret, namespace, &name);
        let secret = (secrets.get)(&key);
        secrets.asked.insert(key);
        Some((format!("{namespace}/{name}"), secret?))
    })
}

fn unusable(credential: &Credential, why: &str, consequence: &str) -> Diagnostic {
    let message = format!("Secret {}: {why}; {consequence}", credential.name);
    let fix = "make a Secret of type kubernetes.io/tls there (tls.crt, tls.key)";
    Diagnostic::error(Code::BadCertificate, message).field(&credential.at).fix(fix)
}
