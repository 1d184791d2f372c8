//! The plans of all Gateways that select a pod, and the routes bound to them → one compiled [`Gateway`].

use super::plan::{Plan, PortKind, ServerPlan, Wire, intersection};
use crate::config::compile::gateway_api::Ranked;
use crate::config::compile::route::{Compiled, is_catch_all, is_unconditional};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::ObjectKey;
use crate::snapshot::L4Routes;
use crate::snapshot::gateway::{App, Gateway, HostTable, Listener, Server, ServerTls, Servers, Tls};
use crate::snapshot::route::{
    Action, Conditions, Family, HeaderOps, Matcher, Redirect, RedirectPort, Route, RuleRef, VirtualHost, Visibility,
};
use http::StatusCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rules of a route on one host.
type OnHost = (Arc<str>, Vec<Ranked>);
/// Certificates of a server that terminates TLS.
type MakeTls<'a> = dyn FnMut(&ObjectKey, &ServerPlan, &mut Vec<Diagnostic>) -> Option<Arc<ServerTls>> + 'a;

/// What merging reads beside the plans.
pub(super) struct View<'a> {
    /// Namespace of the gateway's pods: it must see a VirtualService.
    pub(super) namespace: &'a str,
    /// VirtualServices bound to a Gateway by name, oldest first.
    pub(super) virtual_services: &'a dyn Fn(&str) -> Vec<&'a Compiled>,
    /// Routes attached to a listener (Gateway, listener): host and rules.
    pub(super) attached: &'a dyn Fn(&str, &str) -> Vec<OnHost>,
    pub(super) tls: &'a mut MakeTls<'a>,
}

/// A finding and the Gateway it is about.
pub(super) type Found = (ObjectKey, Diagnostic);

/// `plans`: oldest first, never empty.
pub(super) fn merge(plans: &[(&ObjectKey, &Plan)], view: &mut View<'_>, found: &mut Vec<Found>) -> Gateway {
    let mut ports: BTreeMap<u16, Port<'_>> = BTreeMap::new();
    for (key, plan) in plans {
        for server in &plan.servers {
            let port = ports.entry(server.port).or_insert_with(|| Port { owner: &plan.name, servers: Vec::new() });
            match port.conflict(server) {
                Some(why) => {
                    let message = format!("port {}: {why}; the server is left out", server.port);
                    let diagnostic = Diagnostic::error(Code::PortConflict, message).field(&server.at);
                    found.push(((*key).clone(), diagnostic.fix("give it a port of its own")));
                }
                None => port.servers.push((key, plan, server)),
            }
        }
    }
    Gateway {
        names: plans.iter().map(|(_, plan)| Arc::clone(&plan.name)).collect(),
        listeners: ports.into_iter().map(|(number, port)| Arc::new(port.compile(number, view, found))).collect(),
    }
}

struct Port<'a> {
    /// Under whose name routes of the plain servers are matched.
    owner: &'a Arc<str>,
    servers: Vec<(&'a ObjectKey, &'a Plan, &'a ServerPlan)>,
}

impl Port<'_> {
    fn conflict(&self, new: &ServerPlan) -> Option<String> {
        let (_, plan, first) = self.servers.first()?;
        match (first.wire.kind(), new.wire.kind()) {
            (one, other) if one != other => Some(format!("{} has another protocol there", plan.name)),
            (PortKind::Tcp, _) => Some(format!("{} has a TCP server there", plan.name)),
            _ => None,
        }
    }

    fn compile(&self, number: u16, view: &mut View<'_>, found: &mut Vec<Found>) -> Listener {
        let servers = match self.servers.first().map(|(.., server)| server.wire.kind()) {
            Some(PortKind::Tls) => Servers::Tls(self.tls(view, found)),
            Some(PortKind::Tcp) => {
                let routes = self.servers.iter().flat_map(|(_, plan, server)| l4_routes(plan, server, view));
                let app = App::L4(routes.collect());
                Servers::Plain(Arc::new(Server { gateway: Arc::clone(self.owner), tls: Tls::None, app }))
            }
            Some(PortKind::Http) | None => {
                let mut hosts = Hosts::default();
                for (key, plan, server) in &self.servers {
                    hosts.add((key, plan, server), self.owner, view);
                }
                let app = App::Http(hosts.compile());
                Servers::Plain(Arc::new(Server { gateway: Arc::clone(self.owner), tls: Tls::None, app }))
            }
        };
        Listener { port: number, servers }
    }

    fn tls(&self, view: &mut View<'_>, found: &mut Vec<Found>) -> HostTable<Arc<Server>> {
        let mut table: BTreeMap<Arc<str>, Arc<Server>> = BTreeMap::new();
        for (key, plan, server) in &self.servers {
            let mut own = Vec::new();
            let made = Arc::new(tls_server(key, plan, server, view, &mut own));
            for host in &server.hosts {
                if table.contains_key(&host.host) {
                    let message = format!("another server of port {} has host {} already", server.port, host.host);
                    let diagnostic =
                        Diagnostic::error(Code::PortConflict, message).field(format!("{}.hosts", server.at));
                    own.push(diagnostic.fix("list a host in one server of a port only"));
                } else {
                    table.insert(Arc::clone(&host.host), Arc::clone(&made));
                }
            }
            found.extend(own.into_iter().map(|diagnostic| ((*key).clone(), diagnostic)));
        }
        let mut hosts = HostTable::default();
        for (host, server) in table {
            hosts.insert(&host, server);
        }
        hosts
    }
}

fn tls_server(
    key: &ObjectKey,
    plan: &Plan,
    server: &ServerPlan,
    view: &mut View<'_>,
    found: &mut Vec<Diagnostic>,
) -> Server {
    let tls = match (view.tls)(key, server, found) {
        Some(tls) => Tls::Terminate(tls),
        None => Tls::Passthrough,
    };
    let app = if let Wire::Https(_) = server.wire {
        let mut hosts = Hosts::default();
        hosts.add((key, plan, server), &plan.name, view);
        App::Http(hosts.compile())
    } else {
        App::L4(l4_routes(plan, server, view))
    };
    Server { gateway: Arc::clone(&plan.name), tls, app }
}

/// Connection routes of the VirtualServices that share a host with the server.
fn l4_routes(plan: &Plan, server: &ServerPlan, view: &View<'_>) -> Vec<Arc<L4Routes>> {
    let bound = visible(plan, view).into_iter().filter(|vs| !vs.l4.is_empty());
    let bound = bound.filter(|vs| vs.hosts.iter().any(|host| !shared(host, &vs.namespace, server).is_empty()));
    bound.map(|vs| Arc::clone(&vs.l4)).collect()
}

/// Those that the gateway's pods see: private ones of their namespace first, then exported, then public.
fn visible<'a>(plan: &Plan, view: &View<'a>) -> Vec<&'a Compiled> {
    let mut bound = (view.virtual_services)(&plan.name);
    bound.retain(|vs| vs.export.visible_to(&vs.namespace, view.namespace));
    // Stable: each rank stays in order of age.
    bound.sort_by_key(|vs| vs.export.rank());
    bound
}

/// What a VirtualService's host and a server's hosts have in common.
fn shared(host: &Arc<str>, namespace: &str, server: &ServerPlan) -> Vec<Arc<str>> {
    let open = server.hosts.iter().filter(|h| h.namespace.as_ref().is_none_or(|only| **only == *namespace));
    open.filter_map(|h| intersection(host, &h.host)).collect()
}

/// Everything that is said about the hosts of one port (without TLS) or server (with TLS).
#[derive(Default)]
struct Hosts(BTreeMap<Arc<str>, Host>);

#[derive(Default)]
struct Host {
    /// `httpsRedirect` of a server, and under whose name it is matched.
    redirect: Option<(RuleRef, Arc<str>)>,
    istio: Vec<Arc<Route>>,
    api: Vec<Ranked>,
}

impl Hosts {
    /// `owner`: under whose name the routes will be matched.
    fn add(&mut self, (key, plan, server): (&ObjectKey, &Plan, &ServerPlan), owner: &Arc<str>, view: &View<'_>) {
        if let Some(listener) = &server.listener {
            // A host of this listener never falls to a wider one's routes (Listener isolation).
            for host in &server.hosts {
                self.0.entry(Arc::clone(&host.host)).or_default();
            }
            for (host, routes) in (view.attached)(&plan.name, listener) {
                let host = self.0.entry(host).or_default();
                host.api.extend(routes.into_iter().map(|(rank, route)| (rank, owned(route, &plan.name, owner))));
            }
            return;
        }
        if server.redirect {
            let field = format!("{}.tls.httpsRedirect", server.at).into();
            let rule = RuleRef { object: Some(key.clone()), field };
            for host in &server.hosts {
                self.0.entry(Arc::clone(&host.host)).or_default().redirect = Some((rule.clone(), Arc::clone(owner)));
            }
            return;
        }
        for vs in visible(plan, view) {
            let routes = vs.routes_of(&plan.name);
            for host in vs.hosts.iter().flat_map(|host| shared(host, &vs.namespace, server)) {
                let routes = routes.iter().map(|route| owned(Arc::clone(route), &plan.name, owner));
                self.0.entry(host).or_default().istio.extend(routes);
            }
        }
    }

    fn compile(self) -> HostTable<Arc<VirtualHost>> {
        let mut table = HostTable::default();
        for (name, host) in self.0 {
            let made = host.compile(&name);
            table.insert(&name, Arc::new(made));
        }
        table
    }
}

impl Host {
    fn compile(mut self, name: &Arc<str>) -> VirtualHost {
        let (family, routes) = match self.redirect {
            Some((rule, owner)) => (Family::Istio, vec![Arc::new(to_https(rule, owner))]),
            None if !self.istio.is_empty() => {
                // "then all catch-all routes moved to the end"; stable.
                self.istio.sort_by_key(|route| is_catch_all(&route.matcher) && is_unconditional(&route.conditions));
                (Family::Istio, self.istio)
            }
            None => {
                self.api.sort_by(|a, b| a.0.cmp(&b.0));
                (Family::GatewayApi, self.api.into_iter().map(|(_, route)| route).collect())
            }
        };
        VirtualHost {
            host: Arc::clone(name),
            family,
            namespace: "".into(),
            export: Visibility::Public,
            ports: Vec::new(),
            routes: routes.into(),
        }
    }
}

/// `route` of Gateway `name`, as it is matched under `owner`'s name.
fn owned(route: Arc<Route>, name: &Arc<str>, owner: &Arc<str>) -> Arc<Route> {
    if name == owner {
        return route;
    }
    let conditions = Conditions { gateways: vec![Arc::clone(owner)], ..route.conditions.clone() };
    Arc::new(Route { conditions, ..(*route).clone() })
}

/// `httpsRedirect`: every request of the host, even where no VirtualService speaks about it.
fn to_https(rule: RuleRef, owner: Arc<str>) -> Route {
    Route {
        name: "https-redirect".into(),
        rule,
        conditions: Conditions { gateways: vec![owner], ..Conditions::default() },
        matcher: Matcher::default(),
        action: Action::Redirect(Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".into()),
            authority: None,
            port: RedirectPort::Keep,
            path: None,
        }),
        fault: None,
        cors: None,
        rate_limit: None,
        headers: HeaderOps::default(),
    }
}
