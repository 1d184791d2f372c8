//! Connections whose bytes are not looked into: who takes them, which `tls` or `tcp` rule holds, where they may go.

use super::exchange::{forwarded_to, nobody, round};
use super::question::Speaks;
use super::view::{Backend, Explanation, NearMiss, Verdict};
use super::{Asking, backend, lookup, reference, verdict, words};
use crate::balance;
use crate::destination::Target;
use crate::destination::resolve::{self, Opaque, To};
use crate::error::Failure;
use crate::kernel::{self, Taker};
use crate::listen::Wants;
use crate::route::l4::{self, Rule};
use crate::route::{Facts, Mismatch};
use crate::snapshot::gateway::{Server, Tls};
use crate::snapshot::route::{Backend as Destination, BackendTo, MESH, RuleRef};
use crate::snapshot::{L4Routes, Protocol};
use std::rc::Rc;
use std::sync::Arc;

/// An agent's way with bytes. `tls`: the port lets it look for a ClientHello.
pub(super) fn opaque(asking: &Asking<'_>, tls: bool) -> Explanation {
    let (snapshot, client) = (asking.world.snapshot, asking.client());
    let named = tls && asking.asked.speaks == Speaks::Tls;
    let asks = named && asking.destinations.asks_for_name(&asking.source, &asking.wants);
    let sni = asking.asked.sni.as_deref().filter(|_| asks);
    let opaque = resolve::opaque(snapshot, &client, &asking.wants, sni);
    let mut explanation = blank(asking, &opaque.to);
    explanation.lookup.rules_of = opaque.rules.map(|rules| rules.host.to_string());
    explanation.near_misses = near_misses(asking, &opaque, sni);
    match opaque.rule {
        Some(rule) => take(asking, rule, asking.address.port(), &mut explanation),
        None => {
            // Nothing is drawn where no rule has weights.
            let mut rng = fastrand::Rng::with_seed(0);
            let target = asking.destinations.opaque(&asking.source, &asking.wants, sni, &mut rng);
            straight(asking, target, &opaque.to, &mut explanation);
        }
    }
    explanation
}

/// The kernel chooses an endpoint of the Service.
pub(super) fn by_kernel(asking: &Asking<'_>) -> Explanation {
    let to = resolve::connection(asking.world.snapshot, &asking.client(), &asking.wants);
    let mut explanation = blank(asking, &to);
    explanation.lookup.taken_by = "kernel".into();
    straight(asking, asking.destinations.connection(&asking.source, &asking.wants), &to, &mut explanation);
    for policy in explanation.backends.iter_mut().filter_map(|backend| backend.policy.as_mut()) {
        // Whatever a DestinationRule says: by weight is what it can do.
        policy.balancer = words::word(&balance::Policy::Random);
    }
    explanation
}

/// The connect hook passes it by.
pub(super) fn left_alone(asking: &Asking<'_>) -> Explanation {
    let (snapshot, client, address) = (asking.world.snapshot, asking.client(), asking.address);
    let to = resolve::connection(snapshot, &client, &asking.wants);
    let mut explanation = blank(asking, &to);
    explanation.lookup.taken_by = "nobody".into();
    let why = match &to {
        To::Service(service, _) | To::Pod(_, _, Some((service, _))) => {
            format!("{} is headless and opaque: the app chose the pod itself", service.name)
        }
        To::Pod(workload, ..) => format!("it is the own address of pod {}", workload.key),
        _ => "nobody declared the address".to_owned(),
    };
    explanation.verdict = verdict::forwarded(format!("left alone, it goes to {address}: {why}"));
    if asking.asked.speaks == Speaks::Http {
        let resolved = resolve::request(snapshot, &client, &asking.wants, &asking.asked.host);
        explanation.notes.extend(resolved.rules.map(|rules| {
            format!(
                "rules for {} do not hold: no object declares it, so the kernel lets it pass; a ServiceEntry for it \
                 brings it to the agent",
                rules.host
            )
        }));
    }
    explanation
}

/// Nobody declared where it goes.
pub(super) fn refused(asking: &Asking<'_>, failure: &Failure) -> Explanation {
    let to = resolve::connection(asking.world.snapshot, &asking.client(), &asking.wants);
    let mut explanation = blank(asking, &to);
    explanation.verdict = closed(failure, &nobody(&to, &asking.asked.host));
    explanation
}

/// Bytes where HTTP is spoken.
pub(super) fn no_http(asking: &Asking<'_>) -> Explanation {
    let to = resolve::connection(asking.world.snapshot, &asking.client(), &asking.wants);
    let mut explanation = asking.blank(lookup::of_destination(asking, &to), None);
    let why = format!("port {} speaks HTTP: what is no HTTP request is refused", asking.address.port());
    explanation.verdict = verdict::refused(&Failure::BadRequest("not HTTP"), &asking.asked.parts.headers, &why);
    explanation
}

/// A gateway's server that forwards bytes.
pub(super) fn at_gateway(asking: &Asking<'_>, server: &Server, routes: &[Arc<L4Routes>]) -> Explanation {
    let mut explanation = asking.blank(lookup::of_gateway(&asking.asked.host, None), Some(&server.gateway));
    explanation.lookup.opaque = true;
    let port = asking.address.port();
    // What is terminated has lost its name, as in `proxy/gateway.rs`.
    let sni = asking.asked.sni.as_deref().filter(|_| matches!(server.tls, Tls::Passthrough));
    let facts = Facts { port, client: asking.client(), gateway: &server.gateway };
    let to = asking.workload.ips.first().copied();
    let all = || routes.iter().map(|routes| &**routes);
    let Some(rule) = l4::of_server(all(), &facts, to, sni) else {
        let misses = |routes: &L4Routes| -> Vec<NearMiss> {
            let tls = routes.tls.iter().filter_map(|tls| {
                let why = sni.map(|sni| l4::check_tls(tls, &facts, to, sni).err().map(|why| why.to_string()));
                Some(miss(asking, &tls.rule, why.unwrap_or_else(|| Some(UNNAMED.into()))?))
            });
            let tcp = routes.tcp.iter().filter(|_| sni.is_none()).filter_map(|tcp| {
                l4::check_tcp(tcp, &facts, to).err().map(|why| miss(asking, &tcp.rule, why.to_string()))
            });
            tls.chain(tcp).collect()
        };
        explanation.near_misses = all().flat_map(misses).collect();
        let why = format!("no rule bound to {} takes connections of port {port}", server.gateway);
        explanation.verdict = closed(&Failure::NoRoute, &why);
        return explanation;
    };
    take(asking, rule, port, &mut explanation);
    explanation
}

impl Asking<'_> {
    pub(super) fn taker(&self) -> Taker {
        match &self.wants {
            Wants::Original(to) => kernel::taker(self.world.snapshot, &self.client(), *to),
            Wants::Port(_) | Wants::Gateway { .. } => Taker::Agent,
        }
    }
}

const UNNAMED: &str = "the agent has no SNI of the connection";

fn blank(asking: &Asking<'_>, to: &To) -> Explanation {
    let mut explanation = asking.blank(lookup::of_destination(asking, to), None);
    explanation.lookup.opaque = true;
    explanation.notes.extend(lookup::hidden(asking, to, &asking.asked.host));
    let declared = match to {
        To::Service(_, port) | To::Pod(_, _, Some((_, port))) => Some(port.protocol),
        _ => None,
    };
    if let Some(protocol @ (Protocol::Tcp | Protocol::Tls)) = declared
        && asking.asked.speaks == Speaks::Http
    {
        explanation.notes.push(format!(
            "port {} is declared {}: HTTP is not looked into, rules for HTTP do not hold; name the port http-… or set \
             appProtocol",
            asking.address.port(),
            lookup::word(protocol)
        ));
    }
    explanation
}

/// No rule takes it.
fn straight(asking: &Asking<'_>, target: Result<Rc<Target>, Failure>, to: &To, into: &mut Explanation) {
    let target = match target {
        Ok(target) => target,
        Err(failure) => {
            into.verdict = closed(&failure, &nobody(to, &asking.asked.host));
            return;
        }
    };
    let mut backend = Backend {
        to: target.name.to_string(),
        subset: None,
        weight: 1,
        percent: 100.0,
        sent: None,
        policy: None,
        endpoints: Vec::new(),
        chosen: None,
        refusal: None,
    };
    let why = asking.describe(&mut backend, &target, None);
    backend.refusal = why.map(|why| closed(&Failure::NoEndpoint, &why));
    into.verdict = backend.refusal.clone().unwrap_or_else(|| verdict::forwarded(forwarded_to(&backend, 0)));
    into.backends.push(backend);
}

/// The rule's destinations, by weight.
fn take(asking: &Asking<'_>, rule: Rule<'_>, port: u16, into: &mut Explanation) {
    into.rule = Some(reference::l4_rule(asking.world.compiler, rule));
    let total = rule.backends().iter().map(|backend| u64::from(backend.weight)).sum();
    into.backends = rule.backends().iter().map(|to| destination(asking, to, port, total)).collect();
    let good: Vec<&Backend> = into.backends.iter().filter(|b| b.refusal.is_none() && b.weight > 0).collect();
    into.verdict = match good.first() {
        Some(first) => verdict::forwarded(forwarded_to(first, good.len() - 1)),
        None => into
            .backends
            .iter()
            .find_map(|backend| backend.refusal.clone())
            .unwrap_or_else(|| closed(&Failure::NoCluster, "the rule has no destination left")),
    };
    for bad in into.backends.iter().filter(|b| !good.is_empty() && b.weight > 0) {
        into.notes.extend(
            bad.refusal
                .as_ref()
                .map(|refusal| format!("{} % of the connections: {}", round(bad.percent), refusal.summary)),
        );
    }
}

fn destination(asking: &Asking<'_>, to: &Destination, port: u16, total: u64) -> Backend {
    let mut backend = backend::unknown(to, port, total);
    let target = match &to.to {
        BackendTo::Service(to) => asking.destinations.backend(&asking.source, &asking.wants, to, port),
        BackendTo::Refused { status, .. } => Err(Failure::RefusedBackend(*status)),
    };
    backend.refusal = match target {
        Ok(target) => asking.describe(&mut backend, &target, None).map(|why| closed(&Failure::NoEndpoint, &why)),
        Err(failure) => Some(closed(&failure, &asking.why_missing(to, port))),
    };
    backend
}

/// Rules that were tried before the one that holds: `tls` rules first, then `tcp` rules in their order.
fn near_misses(asking: &Asking<'_>, opaque: &Opaque<'_>, sni: Option<&str>) -> Vec<NearMiss> {
    let Some(host) = opaque.rules else { return Vec::new() };
    let facts = Facts { port: asking.address.port(), client: asking.client(), gateway: MESH };
    let address = asking.wants.original().map(|to| to.addr().ip());
    let taken = |rule: &RuleRef| opaque.rule.is_some_and(|taken| std::ptr::eq(taken.reference(), rule));
    let said = |why: Result<(), Mismatch<'_>>, otherwise: &str| match why {
        Err(why) => why.to_string(),
        Ok(()) => otherwise.to_owned(),
    };
    let mut misses = Vec::new();
    for tls in host.routes.tls.iter().filter(|tls| !taken(&tls.rule)) {
        let why = match sni {
            Some(sni) => said(
                l4::check_tls(tls, &facts, address, sni).map(drop),
                "another rule's name is as specific and comes first, or is more specific",
            ),
            None => UNNAMED.into(),
        };
        misses.push(miss(asking, &tls.rule, why));
    }
    if matches!(opaque.rule, Some(Rule::Tls(_))) {
        return misses;
    }
    for tcp in host.routes.tcp.iter().take_while(|tcp| !taken(&tcp.rule)) {
        let why = said(l4::check_tcp(tcp, &facts, address), "the port is declared HTTP or TLS: tcp rules do not hold");
        misses.push(miss(asking, &tcp.rule, why));
    }
    misses
}

fn miss(asking: &Asking<'_>, rule: &RuleRef, why: String) -> NearMiss {
    NearMiss { name: String::new(), reference: asking.reference(rule), why }
}

/// A connection ends; nobody is told why.
fn closed(failure: &Failure, why: &str) -> Verdict {
    let (flags, _) = failure.closed();
    verdict::reset((!flags.is_empty()).then(|| flags.to_string()), why)
}
