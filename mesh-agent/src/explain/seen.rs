//! The mesh as one workload sees it: services, routes and endpoints under exportTo, Sidecar and DestinationRules, and the
//! certificates it needs for them (`mesh-agent services|routes|endpoints|certificates WORKLOAD`).

use super::certificates::{self, CertificateRow};
use super::question::{Asked, Question, Wrong};
use super::view::{Endpoint, Reference};
use super::{Asking, World, dial, lookup, reference, source};
use crate::route::{self, Facts, Head, Mismatch};
use crate::snapshot::policy::DestinationPolicy;
use crate::snapshot::route::{Action, BackendTo, Destination, Forward, MESH, Route, VirtualHost};
use crate::snapshot::{Service, ServicePort};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Whose view, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// In one of the forms of [`source::FORMS`]; for certificates empty: everybody's.
    pub from: String,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Services,
    Routes,
    Endpoints,
    Certificates,
}

/// What is seen; a list of rows in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Seen {
    Services(Vec<ServiceRow>),
    Routes(Vec<RouteRow>),
    Endpoints(Vec<EndpointRow>),
    Certificates(Vec<CertificateRow>),
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `namespace/name`
    pub service: String,
    pub host: String,
    pub port: u16,
    pub protocol: String,
    pub addresses: Vec<String>,
    /// The Service or ServiceEntry it was made of.
    pub object: Option<Reference>,
    /// DestinationRules that hold for the workload.
    pub rules: Vec<Reference>,
    pub subsets: Vec<String>,
}

/// One rule that may take the workload's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteRow {
    pub host: String,
    pub port: u16,
    pub name: String,
    pub matches: String,
    /// `reviews.default.svc.cluster.local:9080/v1 90 %, …`, `redirect 301`, `answer 503`, `the Service itself`
    pub to: String,
    /// Empty where no object speaks about the host.
    #[serde(flatten)]
    pub reference: Reference,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// `namespace/name:port`, with `/subset` where there is one.
    pub service: String,
    #[serde(flatten)]
    pub endpoint: Endpoint,
}

/// # Errors
/// Nobody is called so.
pub fn look(world: &World<'_>, look: &Look) -> Result<Seen, Wrong> {
    if look.what == What::Certificates && look.from.is_empty() {
        return Ok(Seen::Certificates(certificates::all(world, SystemTime::now())));
    }
    let asked = Asked::new(&Question { url: "http://nowhere/".into(), ..Question::default() })?;
    let address = SocketAddr::new(dial::SOMEWHERE, 80);
    let asking = Asking::new(world, &asked, &source::find(world.snapshot, &look.from)?, None, address);
    Ok(match look.what {
        What::Services => Seen::Services(asking.ports().map(|(s, port)| asking.service_row(s, port)).collect()),
        What::Routes => Seen::Routes(asking.route_rows()),
        What::Endpoints => Seen::Endpoints(asking.endpoint_rows()),
        What::Certificates => Seen::Certificates(asking.certificate_rows(SystemTime::now())),
    })
}

impl Asking<'_> {
    /// Ports of every Service that the client sees, in order of name.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&Arc<Service>, &Arc<ServicePort>)> {
        let snapshot = self.world.snapshot;
        let mut services: Vec<_> = snapshot.services().filter(|service| self.sees(service)).collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let scope = snapshot.egress(&self.client(), &snapshot.mesh().root_namespace);
        let ports = services.into_iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports.filter(move |(service, port)| {
            scope.is_none_or(|scope| scope.allows(&service.name.namespace, &service.host, port.port))
        })
    }

    fn sees(&self, service: &Service) -> bool {
        service.export.visible_to(&service.name.namespace, self.client().namespace)
    }

    pub(super) fn policy_of(&self, service: &Service) -> Option<&Arc<DestinationPolicy>> {
        let snapshot = self.world.snapshot;
        snapshot.destination_policy(&self.client(), service, &snapshot.mesh().root_namespace)
    }

    fn service_row(&self, service: &Service, port: &ServicePort) -> ServiceRow {
        let rules = self.policy_of(service);
        ServiceRow {
            service: service.name.to_string(),
            host: service.host.to_string(),
            port: port.port,
            protocol: lookup::word(port.protocol).into(),
            addresses: service.vips.iter().map(ToString::to_string).collect(),
            object: self.definition(service),
            rules: rules.iter().flat_map(|rules| &rules.rules).map(|rule| self.reference(rule)).collect(),
            subsets: rules.iter().flat_map(|rules| &rules.subsets).map(|subset| subset.name.to_string()).collect(),
        }
    }

    fn route_rows(&self) -> Vec<RouteRow> {
        let (snapshot, client) = (self.world.snapshot, self.client());
        let mut rows = Vec::new();
        for (service, port) in self.ports().filter(|(_, port)| !port.protocol.is_opaque()) {
            match snapshot.virtual_host(&client, &service.host, port.port) {
                Some(rules) => rows.extend(self.rules_of(rules, &service.host, port.port)),
                None => rows.push(RouteRow {
                    host: service.host.to_string(),
                    port: port.port,
                    name: "default".into(),
                    matches: "everything".into(),
                    to: "the Service itself".into(),
                    reference: Reference { object: String::new(), field: String::new(), place: String::new() },
                }),
            }
        }
        // Hosts that only rules know are served on port 80 (SEMANTICS §3).
        let served = |host: &str| snapshot.service_by_host(&client, host).is_some();
        let holds = |rules: &&Arc<VirtualHost>| {
            snapshot.virtual_host(&client, &rules.host, 80).is_some_and(|found| Arc::ptr_eq(found, rules))
        };
        let mut others: Vec<_> = snapshot.virtual_hosts().filter(holds).filter(|v| !served(&v.host)).collect();
        others.retain(|rules| snapshot.serves_strangers(rules));
        others.sort_by(|a, b| a.host.cmp(&b.host));
        rows.extend(others.into_iter().flat_map(|rules| self.rules_of(rules, &rules.host, 80)));
        rows
    }

    /// Rules whose conditions of port, gateway and source hold for the client.
    fn rules_of(&self, rules: &VirtualHost, host: &str, port: u16) -> Vec<RouteRow> {
        let facts = Facts { port, client: self.client(), gateway: MESH };
        let head = Head::of(&self.asked.parts);
        let never = |route: &Route| {
            use Mismatch::{Gateway, Port, SourceLabel, SourceNamespace};
            let missed = route::check(route, &facts, &head).err();
            matches!(missed, Some(Port { .. } | Gateway { .. } | SourceLabel { .. } | SourceNamespace { .. }))
        };
        let rows = rules.routes.iter().filter(|route| !never(route)).map(|route| RouteRow {
            host: host.to_owned(),
            port,
            name: route.name.to_string(),
            matches: reference::matches(&route.conditions, &route.matcher),
            to: destination(&route.action, port),
            reference: self.reference(&route.rule),
        });
        rows.collect()
    }

    fn endpoint_rows(&self) -> Vec<EndpointRow> {
        let mut rows = Vec::new();
        for (service, port) in self.ports() {
            let subsets = self.policy_of(service).into_iter().flat_map(|rules| &rules.subsets);
            let all = std::iter::once(None).chain(subsets.map(|subset| Some(Arc::clone(&subset.name))));
            for subset in all {
                let to = Destination { host: Arc::clone(&service.host), port: Some(port.port), subset };
                let Ok(target) = self.destinations.backend(&self.source, &self.wants, &to, port.port) else { continue };
                let name = target.cluster.key().to_string();
                let endpoints = self.endpoints(&target, Some(service)).into_iter();
                rows.extend(endpoints.map(|endpoint| EndpointRow { service: name.clone(), endpoint }));
            }
        }
        rows
    }
}

fn destination(action: &Action, port: u16) -> String {
    match action {
        Action::Redirect(to) => format!("redirect {}", to.status.as_u16()),
        Action::Respond(direct) => format!("answer {}", direct.status.as_u16()),
        Action::Forward(Forward { backends, .. }) => {
            let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
            let of = |backend: &crate::snapshot::route::Backend| {
                let to = match &backend.to {
                    BackendTo::Refused { status, .. } => format!("answer {}", status.as_u16()),
                    BackendTo::Service(Destination { host, port: wanted, subset }) => {
                        let subset = subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
                        format!("{host}:{}{subset}", wanted.unwrap_or(port))
                    }
                };
                let share = u64::from(backend.weight) * 100 / total.max(1);
                if backends.len() > 1 { format!("{to} {share} %") } else { to }
            };
            backends.iter().map(of).collect::<Vec<_>>().join(", ")
        }
    }
}
