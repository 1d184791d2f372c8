//! What a workload proves itself with, and whom it believes: as gateway to clients, as client to endpoints.
//!
//! Of Secrets as they were compiled, of files as they are now: rows come from the same constructors that the data path
//! uses, so that what it will refuse is told here. Private keys are read to be checked and are never shown.

use super::reference;
use super::view::Reference;
use super::{Asking, World};
use crate::config::resource::Sensitive;
use crate::identity::{Certificate, Facts, TrustAnchors};
use crate::snapshot::Workload;
use crate::snapshot::gateway::{ClientCertificates, Gateway, Listener, Server, ServerTls, Servers, Tls};
use crate::snapshot::policy::{ClientTls, ClientTlsMode, DestinationPolicy, TrafficPolicy};
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// One certificate, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateRow {
    pub role: Role,
    /// `:443 shop.example, *.shop.example` of a gateway, `db.shop.svc.cluster.local:5432/v1` of a client.
    pub used_for: Vec<String>,
    /// `Secret shop/edge`, or a path on the agent's node.
    pub origin: String,
    /// The object that asks for it.
    #[serde(flatten)]
    pub reference: Reference,
    /// It is asked for and cannot be used: connections that need it fail.
    pub broken: bool,
    /// Why there is no certificate, or what else there is to know.
    pub note: String,
    pub certificate: Option<Facts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Of the workload itself, to the rest of the mesh.
    MeshIdentity,
    /// A gateway shows it to clients.
    Server,
    /// A DestinationRule's, shown to endpoints.
    Client,
    /// Sent along by either, between its own and its issuer's anchor.
    Intermediate,
    /// A gateway believes clients whose chains end in it.
    ClientCa,
    /// Endpoints are believed whose chains end in it.
    ServerCa,
}

/// Anchors of one origin that are shown: a bundle of the world's has hundreds.
const MOST_ANCHORS: usize = 20;
/// A longer file is no certificate.
const LONGEST: u64 = 1 << 20;
/// What is said of each workload.
const NO_IDENTITY: &str = "no mesh identity: connections inside the mesh are plain text";

/// What is the same for all rows of one use.
struct Use<'a> {
    role: Role,
    used_for: &'a [String],
    reference: &'a Reference,
    now: SystemTime,
}

/// Of all gateways and DestinationRules, whoever's they are.
pub(super) fn all(world: &World<'_>, now: SystemTime) -> Vec<CertificateRow> {
    let mut gateways: Vec<&Arc<Gateway>> = world.snapshot.gateways().map(|(_, gateway)| gateway).collect();
    gateways.sort_by(|a, b| a.names.cmp(&b.names));
    gateways.dedup_by(|a, b| Arc::ptr_eq(a, b));
    let policies = world.snapshot.destination_policies();
    let uses = policies.flat_map(|policy| {
        let host =
            move |port: Option<u16>| port.map_or_else(|| policy.host.to_string(), |p| format!("{}:{p}", policy.host));
        let ports = policy.policies.ports.iter().map(|(port, _)| Some(*port));
        let all: Vec<_> = ports.chain([None]).collect();
        all.into_iter().flat_map(move |port| uses_of(policy, port, &host(port)))
    });
    let mut rows = vec![identity(None)];
    rows.extend(gateways.into_iter().flat_map(|gateway| of_gateway(gateway, now)));
    rows.extend(of_clients(world, uses, now));
    rows
}

impl Asking<'_> {
    pub(super) fn certificate_rows(&self, now: SystemTime) -> Vec<CertificateRow> {
        let gateway = self.world.snapshot.gateway(&self.workload.key);
        let ports = self.ports().filter_map(|(service, port)| Some((self.policy_of(service)?, service, port.port)));
        let uses =
            ports.flat_map(|(policy, service, port)| uses_of(policy, Some(port), &format!("{}:{port}", service.host)));
        let mut rows = vec![identity((!self.assumed).then_some((self, &*self.workload)))];
        rows.extend(gateway.into_iter().flat_map(|gateway| of_gateway(gateway, now)));
        rows.extend(of_clients(self.world, uses, now));
        rows
    }
}

/// The mesh's own mTLS is to come: until then nobody is told that there is one.
fn identity(of: Option<(&Asking<'_>, &Workload)>) -> CertificateRow {
    let outside = of.map(|(asking, workload)| asking.standing(workload)).filter(|(mesh, _)| *mesh == "outside");
    CertificateRow {
        role: Role::MeshIdentity,
        used_for: of.map(|(_, workload)| workload.key.to_string()).into_iter().collect(),
        origin: String::new(),
        reference: Reference { object: String::new(), field: String::new(), place: String::new() },
        broken: false,
        note: match outside {
            Some((_, reason)) => format!("no mesh identity: the pod is outside the mesh: {reason}"),
            None => NO_IDENTITY.into(),
        },
        certificate: None,
    }
}

fn of_gateway(gateway: &Gateway, now: SystemTime) -> Vec<CertificateRow> {
    let mut rows = Vec::new();
    for (tls, server, used_for) in gateway.listeners.iter().flat_map(|listener| terminated(listener)) {
        let object = format!("Gateway {}", server.gateway);
        let reference = Reference { object, field: String::new(), place: String::new() };
        let of = |role| Use { role, used_for: &used_for, reference: &reference, now };
        rows.extend(tls.certificates.iter().flat_map(|certificate| of(Role::Server).chain("", certificate)));
        rows.extend(tls.missing.iter().map(|why| of(Role::Server).broken("", why)));
        if let Some(files) = &tls.files {
            rows.extend(of(Role::Server).pair(&files.certificate, &files.key));
        }
        let (ClientCertificates::Optional(anchors) | ClientCertificates::Required(anchors)) = &tls.clients else {
            continue;
        };
        match (anchors, tls.files.as_ref().and_then(|files| files.ca.as_ref())) {
            (Some(anchors), _) => rows.extend(of(Role::ClientCa).anchors("", anchors)),
            (None, Some(path)) => rows.extend(of(Role::ClientCa).bundle(path)),
            (None, None) => {
                rows.push(of(Role::ClientCa).broken("", "no client certificate is believed: there is no CA"));
            }
        }
    }
    rows
}

/// One for each TLS setting of a listener, with the names whose ClientHellos lead to it.
fn terminated(listener: &Listener) -> Vec<(&Arc<ServerTls>, &Server, Vec<String>)> {
    let mut found: Vec<(&Arc<ServerTls>, &Server, Vec<String>)> = Vec::new();
    let Servers::Tls(table) = &listener.servers else { return found };
    for (host, server) in table.iter() {
        let Tls::Terminate(tls) = &server.tls else { continue };
        let host = format!("{host}:{}", listener.port);
        match found.iter_mut().find(|(known, of, _)| *known == tls && of.gateway == server.gateway) {
            Some((.., hosts)) => hosts.push(host),
            None => found.push((tls, &**server, vec![host])),
        }
    }
    found
}

/// TLS of a Service's port and of its subsets; `None`: of all ports without a policy of their own.
fn uses_of<'p>(policy: &'p DestinationPolicy, port: Option<u16>, host: &str) -> Vec<(String, &'p Arc<ClientTls>)> {
    let tls = |policies: &'p crate::snapshot::policy::PortPolicies| {
        let policy: &TrafficPolicy = port.map_or(&policies.base, |port| policies.of(port));
        policy.tls.as_ref().filter(|tls| tls.mode != ClientTlsMode::Disable)
    };
    let own = tls(&policy.policies).map(|tls| (host.to_owned(), tls));
    let subsets = policy.subsets.iter().filter_map(|subset| {
        let tls = tls(&subset.policies)?;
        Some((format!("{host}/{}", subset.name), tls))
    });
    own.into_iter().chain(subsets).collect()
}

fn of_clients<'p>(
    world: &World<'_>,
    uses: impl Iterator<Item = (String, &'p Arc<ClientTls>)>,
    now: SystemTime,
) -> Vec<CertificateRow> {
    let mut found: Vec<(&Arc<ClientTls>, Vec<String>)> = Vec::new();
    for (host, tls) in uses {
        match found.iter_mut().find(|(known, _)| *known == tls) {
            Some((_, hosts)) => hosts.push(host),
            None => found.push((tls, vec![host])),
        }
    }
    let rows = found.iter().map(|(tls, used_for)| {
        let reference = &reference::of_rule(world.compiler, &tls.rule);
        of_client(tls, |role| Use { role, used_for, reference, now })
    });
    rows.flatten().collect()
}

/// As `connect::tls` takes it: a Secret goes before files, and those before what the node believes.
fn of_client<'u>(tls: &ClientTls, of: impl Fn(Role) -> Use<'u>) -> Vec<CertificateRow> {
    let namespace = tls.rule.object.as_ref().map_or("", |object| &*object.namespace);
    let secret = tls.credential.as_ref().map(|name| format!("Secret {namespace}/{name}"));
    let mut rows = Vec::new();
    match tls.mode {
        ClientTlsMode::Disable | ClientTlsMode::Simple => {}
        ClientTlsMode::IstioMutual => {
            rows.push(
                of(Role::Client).absent("ISTIO_MUTUAL takes a mesh identity, and there is none: sent as without TLS"),
            );
            return rows;
        }
        ClientTlsMode::Mutual => match (&secret, &tls.identity, &tls.client_certificate, &tls.private_key) {
            (Some(_), Some(own), ..) => rows.extend(of(Role::Client).chain("", own)),
            (Some(secret), None, ..) => rows.push(of(Role::Client).broken(secret, "has no usable certificate")),
            (None, _, Some(chain), Some(key)) => {
                rows.extend(of(Role::Client).pair(Path::new(&**chain), Path::new(&**key)));
            }
            (None, ..) => rows.push(of(Role::Client).broken("", "MUTUAL without a certificate of the client")),
        },
    }
    match (&secret, &tls.anchors, &tls.ca_certificates) {
        _ if tls.insecure_skip_verify => {
            rows.push(of(Role::ServerCa).absent("insecureSkipVerify: whoever answers is believed"));
        }
        (Some(_), Some(anchors), _) => rows.extend(of(Role::ServerCa).anchors("", anchors)),
        (Some(secret), None, _) => rows.push(of(Role::ServerCa).broken(secret, "has no usable ca.crt")),
        (None, _, Some(path)) => rows.extend(of(Role::ServerCa).bundle(Path::new(&**path))),
        (None, _, None) => rows.push(of(Role::ServerCa).absent("whom the agent's node believes")),
    }
    rows
}

impl Use<'_> {
    fn row(&self, role: Role, origin: &str, certificate: Option<Facts>) -> CertificateRow {
        CertificateRow {
            role,
            used_for: self.used_for.to_vec(),
            origin: origin.to_owned(),
            reference: self.reference.clone(),
            broken: false,
            note: if certificate.is_none() { "it cannot be shown: its fields are not understood" } else { "" }.into(),
            certificate,
        }
    }

    fn absent(&self, note: &str) -> CertificateRow {
        CertificateRow { note: note.to_owned(), ..self.row(self.role, "", None) }
    }

    fn broken(&self, origin: &str, why: &str) -> CertificateRow {
        CertificateRow { broken: true, note: why.to_owned(), ..self.row(self.role, origin, None) }
    }

    /// `origin`: where it is not a Secret's.
    fn chain(&self, origin: &str, certificate: &Certificate) -> Vec<CertificateRow> {
        let origin = certificate.secret().map_or_else(|| origin.to_owned(), |name| format!("Secret {name}"));
        let role = |at| if at == 0 { self.role } else { Role::Intermediate };
        let facts = certificate.facts(self.now).enumerate();
        facts.map(|(at, facts)| self.row(role(at), &origin, facts)).collect()
    }

    fn anchors(&self, origin: &str, anchors: &TrustAnchors) -> Vec<CertificateRow> {
        let origin = anchors.secret().map_or_else(|| origin.to_owned(), |name| format!("Secret {name}"));
        let facts = anchors.facts(self.now);
        let more = facts.len().saturating_sub(MOST_ANCHORS);
        if facts.is_empty() {
            return vec![self.broken(&origin, "has no usable CA: nobody is believed")];
        }
        let shown = facts.into_iter().take(MOST_ANCHORS).map(|facts| self.row(self.role, &origin, facts));
        let rest = (more > 0)
            .then(|| CertificateRow { note: format!("and {more} more"), ..self.row(self.role, &origin, None) });
        shown.chain(rest).collect()
    }

    fn pair(&self, chain: &Path, key: &Path) -> Vec<CertificateRow> {
        let origin = chain.display().to_string();
        let made = read(chain).and_then(|pem| Ok((pem, read(key)?)));
        match made.and_then(|(chain, key)| Certificate::from_pem(chain, key).map_err(|error| error.to_string())) {
            Ok(certificate) => self.chain(&origin, &certificate),
            Err(why) => vec![self.broken(&origin, &why)],
        }
    }

    fn bundle(&self, path: &Path) -> Vec<CertificateRow> {
        let origin = path.display().to_string();
        match read(path).and_then(|pem| TrustAnchors::from_pem(pem).map_err(|error| error.to_string())) {
            Ok(anchors) => self.anchors(&origin, &anchors),
            Err(why) => vec![self.broken(&origin, &why)],
        }
    }
}

/// A regular file, and not more of it than a certificate can be: whoever writes a rule names the path.
fn read(path: &Path) -> Result<Sensitive, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let unlike = || format!("{}: no file of at most {} KiB", path.display(), LONGEST >> 10);
    let meta = path.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(unlike());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(Sensitive::new(bytes))
}

#[cfg(test)]
mod tests;
