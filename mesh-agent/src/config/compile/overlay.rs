//! RequestPolicy → what it adds to the routes and policies of its hosts. It decides nothing about where requests go.

use super::names::fqdn;
use super::route::Defaults;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::request_policy::Spec;
use crate::snapshot::policy::{DestinationPolicy, PortPolicies, Subset, TrafficPolicy};
use crate::snapshot::route::{
    Action, Backend, BackendTo, Conditions, Destination, Family, Forward, HeaderChange, HeaderOps, Hedge, MESH,
    Matcher, RateLimit, Route, RuleRef, VirtualHost, Visibility,
};
use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

/// Envoy's limit: a bucket is not filled more often.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

/// One RequestPolicy, compiled.
#[derive(Debug, PartialEq)]
pub(super) struct Overlay {
    pub(super) hosts: Vec<Arc<str>>,
    routes: Vec<Arc<str>>,
    rate_limit: Option<Arc<RateLimit>>,
    hedge: Option<Arc<Hedge>>,
    max_age: Option<Duration>,
    pub(super) rule: RuleRef,
}

pub(super) fn compile(
    r: &Resource,
    spec: &Spec,
    root_namespace: &str,
    defaults: &Defaults,
    found: &mut Vec<Diagnostic>,
) -> Overlay {
    let mut out = Out { found };
    let rule = RuleRef { object: Some(r.key.clone()), field: "spec".into() };
    Overlay {
        hosts: hosts(r, spec, root_namespace, &defaults.domain, &mut out),
        routes: spec.routes.clone(),
        rate_limit: rate_limit(spec, &rule, &mut out).map(Arc::new),
        hedge: hedge(spec, &mut out).map(Arc::new),
        max_age: spec.connection.and_then(|c| c.max_age).map(|t| t.0).filter(|t| !t.is_zero()),
        rule,
    }
}

struct Out<'a> {
    found: &'a mut Vec<Diagnostic>,
}

impl Out<'_> {
    fn error(&mut self, field: &str, message: impl Into<String>, fix: &str) {
        self.found.push(Diagnostic::error(Code::BadPolicy, message).field(field).fix(fix));
    }
}

/// Nobody may slow down another namespace's Services: in the cluster's domain only the root namespace's policies hold
/// beyond their own namespace.
fn hosts(r: &Resource, spec: &Spec, root: &str, domain: &str, out: &mut Out<'_>) -> Vec<Arc<str>> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    let mut add = |host: Arc<str>, field: &str, out: &mut Out<'_>| {
        let cluster = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with(".svc."));
        let own = host.strip_suffix(&format!(".{}.svc.{domain}", r.key.namespace)).is_some();
        if host.starts_with('*') || host.is_empty() {
            out.error(field, format!("{host:?} is not one host"), "write the hosts one by one");
        } else if cluster && !own && *r.key.namespace != *root {
            let fix = "put the RequestPolicy into the Service's namespace";
            out.error(field, format!("{host} is a Service of another namespace: the policy does not hold for it"), fix);
        } else if !hosts.contains(&host) {
            hosts.push(host);
        }
    };
    for (i, target) in spec.target_refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{i}]");
        if &*target.kind == "Service" && matches!(&*target.group, "" | "core") && !target.name.is_empty() {
            add(fqdn(&target.name, &r.key.namespace, domain), &field, out);
        } else {
            out.error(&field, "not a Service", "write kind: Service and a name, or write hosts");
        }
    }
    for (i, host) in spec.hosts.iter().enumerate() {
        add(fqdn(host, &r.key.namespace, domain), &format!("spec.hosts[{i}]"), out);
    }
    if spec.target_refs.is_empty() && spec.hosts.is_empty() {
        out.error("spec", "neither targetRefs nor hosts: it has no effect", "say for which Services it holds");
    }
    hosts
}

fn rate_limit(spec: &Spec, rule: &RuleRef, out: &mut Out<'_>) -> Option<RateLimit> {
    let limit = spec.rate_limit.as_ref()?;
    if limit.max_tokens == 0 {
        out.error(
            "spec.rateLimit.maxTokens",
            "no tokens: there is no limit",
            "write how many requests may come at once",
        );
        return None;
    }
    let tokens_per_fill = limit.tokens_per_fill.unwrap_or(1);
    if tokens_per_fill == 0 {
        out.error(
            "spec.rateLimit.tokensPerFill",
            "0 never fills the bucket: there is no limit",
            "write a number from 1 up",
        );
        return None;
    }
    let mut fill_interval = limit.fill_interval.map_or(Duration::from_secs(1), |t| t.0);
    if fill_interval < SHORTEST_FILL {
        let message = format!("{fill_interval:?} is shorter than {SHORTEST_FILL:?}, which is used");
        out.error("spec.rateLimit.fillInterval", message, "fill more tokens less often");
        fill_interval = SHORTEST_FILL;
    }
    let percent = limit.percentage.map_or(100.0, |p| p.value);
    if !(0.0..=100.0).contains(&percent) {
        let message = format!("{percent} is no percentage: there is no limit");
        out.error("spec.rateLimit.percentage.value", message, "write a number from 0 to 100");
        return None;
    }
    let mut headers = HeaderChange::default();
    for (name, value) in &limit.response_headers {
        match name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok()) {
            Some(pair) => headers.add.push(pair),
            None => {
                let field = format!("spec.rateLimit.responseHeaders[{name}]");
                out.error(&field, "not a header that can be sent; it is left out", "write a header's name and value");
            }
        }
    }
    Some(RateLimit {
        max_tokens: limit.max_tokens,
        tokens_per_fill,
        fill_interval,
        // 0.0–1,000,000.0: fits.
        share: (percent * 10_000.0) as u32,
        resource_exhausted: limit.resource_exhausted,
        response_headers: (headers != HeaderChange::default()).then(|| Arc::new(headers)),
        rule: rule.clone(),
        scope: Arc::default(),
    })
}

fn hedge(spec: &Spec, out: &mut Out<'_>) -> Option<Hedge> {
    let hedging = spec.hedging.as_ref()?;
    let delay = Some(hedging.delay.0).filter(|delay| !delay.is_zero());
    if delay.is_none() && !hedging.hedge_on_per_try_timeout {
        let fix = "write a time, such as the 95th percentile, or hedgeOnPerTryTimeout: true";
        out.error("spec.hedging.delay", "no delay: nothing is hedged", fix);
        return None;
    }
    let max_attempts = hedging.max_attempts.unwrap_or(2);
    // gRFC A6: "must be > 1 … values greater than 5 are treated as 5".
    if max_attempts < 2 {
        out.error("spec.hedging.maxAttempts", "less than 2: nothing is hedged", "write a number from 2 to 5");
        return None;
    }
    let budget_percent = hedging.budget_percent.unwrap_or(10);
    if budget_percent > 100 {
        out.error("spec.hedging.budgetPercent", "more than 100; 100 is used", "write a number from 1 to 100");
    }
    Some(Hedge {
        delay,
        on_per_try_timeout: hedging.hedge_on_per_try_timeout,
        max_attempts: max_attempts.min(5),
        budget_percent: budget_percent.min(100),
        methods: hedging.methods.clone(),
    })
}

impl Overlay {
    /// Whether it adds anything to routes, or to policies.
    pub(super) fn is_about_routes(&self) -> bool {
        self.rate_limit.is_some() || self.hedge.is_some()
    }

    /// Envoy: a limit of a virtual host has one bucket, limits of routes have one each.
    fn rate_limit_of(&self, host: &str, route: &Route) -> Option<Arc<RateLimit>> {
        let limit = RateLimit::clone(self.rate_limit.as_ref()?);
        let route = if self.routes.is_empty() { "" } else { &route.name };
        Some(Arc::new(RateLimit { scope: format!("{host}/{route}").into(), ..limit }))
    }

    pub(super) fn is_about_policies(&self) -> bool {
        self.max_age.is_some()
    }

    /// The routes of a host with all that holds for them; of several overlays the oldest one's.
    pub(super) fn on_routes(overlays: &[&Self], host: VirtualHost) -> VirtualHost {
        let with = |route: &Arc<Route>| {
            let mine = || overlays.iter().filter(|o| o.routes.is_empty() || o.routes.contains(&route.name));
            let rate_limit = mine().find_map(|o| o.rate_limit_of(&host.host, route));
            let hedge = mine().find_map(|o| o.hedge.clone());
            if rate_limit.is_none() && hedge.is_none() {
                return Arc::clone(route);
            }
            let mut route = Route::clone(route);
            route.rate_limit = rate_limit.or(route.rate_limit);
            if let (Action::Forward(forward), Some(hedge)) = (&mut route.action, hedge) {
                forward.hedge = Some(hedge);
            }
            Arc::new(route)
        };
        VirtualHost { routes: host.routes.iter().map(with).collect(), ..host }
    }

    pub(super) fn on_policy(overlays: &[&Self], policy: DestinationPolicy) -> DestinationPolicy {
        let Some(age) = overlays.iter().find_map(|o| o.max_age) else { return policy };
        let with = |policy: &Arc<TrafficPolicy>| {
            let mut policy = TrafficPolicy::clone(policy);
            policy.pool.max_connection_duration.get_or_insert(age);
            Arc::new(policy)
        };
        let all = |policies: PortPolicies| PortPolicies {
            base: with(&policies.base),
            ports: policies.ports.iter().map(|(port, policy)| (*port, with(policy))).collect(),
        };
        let subset = |subset: Subset| Subset { policies: all(subset.policies), ..subset };
        DestinationPolicy {
            policies: all(policy.policies),
            subsets: policy.subsets.into_iter().map(subset).collect(),
            ..policy
        }
    }
}

/// One route to the Service itself: what holds where no object speaks.
pub(super) fn default_host(host: &Arc<str>, defaults: &Defaults) -> VirtualHost {
    let to = Destination { host: Arc::clone(host), port: None, subset: None };
    let backend = Backend { weight: 1, to: BackendTo::Service(to), headers: HeaderOps::default(), mirrors: Vec::new() };
    let route = Route {
        name: "default".into(),
        rule: RuleRef { object: None, field: "".into() },
        conditions: Conditions { gateways: vec![MESH.into()], ..Conditions::default() },
        matcher: Matcher::default(),
        action: Action::Forward(Forward {
            backends: vec![backend],
            rewrite: None,
            timeout: None,
            retry: defaults.retry.clone(),
            mirrors: Vec::new(),
            hedge: None,
        }),
        fault: None,
        cors: None,
        rate_limit: None,
        headers: HeaderOps::default(),
    };
    VirtualHost {
        host: Arc::clone(host),
        family: Family::Default,
        namespace: "".into(),
        export: Visibility::Public,
        ports: Vec::new(),
        routes: vec![Arc::new(route)].into(),
    }
}
