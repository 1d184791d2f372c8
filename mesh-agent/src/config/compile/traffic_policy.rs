//! DestinationRule → flat traffic policies (SEMANTICS §5). Pure; one set of rules that are merged at a time.

mod tls;

pub(super) use tls::{Secrets, credentials};

use super::names::{fqdn, visibility};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::destination_rule::{
    self as wire, ConnectionPool as WirePool, LoadBalancer, PortPolicy, Spec,
};
use crate::config::resource::{Labels, ObjectKey, Resource};
use crate::snapshot::policy::{
    Balancer, ConnectionPool, ConsistentHash, DestinationPolicy, Distribution, H2Upgrade, HashKey, HashTable,
    LocalityPolicy, OutlierDetection, PortPolicies, ProxyProtocol, RetryBudget, Subset, TcpKeepalive, TrafficPolicy,
    Warmup,
};
use crate::snapshot::route::{RuleRef, Visibility};
use std::sync::Arc;
use std::time::Duration;

/// Envoy's and Istio's defaults and limits.
const MINIMUM_RING: u64 = 1024;
const MAXIMUM_RING: u64 = 8_388_608;
pub(super) const MAGLEV_TABLE: u64 = 65_537;
const MAXIMUM_MAGLEV: u64 = 5_000_011;

/// What holds for every DestinationRule (MeshConfig).
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) domain: Arc<str>,
    pub(super) export: Visibility,
    /// `defaultTrafficPolicy`
    pub(super) pool: Option<WirePool>,
    pub(super) outlier: Option<wire::OutlierDetection>,
}

/// Which DestinationRules are merged: those that are alike in all of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) namespace: Arc<str>,
    pub(super) host: Arc<str>,
    export: Visibility,
    selector: Labels,
}

impl Group {
    pub(super) fn of(r: &Resource, spec: &Spec, defaults: &Defaults) -> Self {
        let selector = spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default();
        // "workloadSelector: DR is private to its namespace".
        let export =
            if selector.is_empty() { visibility(&spec.export_to, &defaults.export) } else { Visibility::Private };
        let host = fqdn(&spec.host, &r.key.namespace, &defaults.domain);
        Self { namespace: Arc::clone(&r.key.namespace), host, export, selector }
    }
}

/// Merges the rules of a group, oldest first: the oldest top-level policy, all subsets, of one name the oldest.
pub(super) fn compile(
    group: Group,
    rules: &[(&Resource, &Spec)],
    defaults: &Defaults,
    secrets: &Secrets<'_>,
    found: &mut Vec<super::Found>,
) -> Option<DestinationPolicy> {
    let (first, _) = rules.first()?;
    let top = rules.iter().find_map(|(r, spec)| Some((*r, spec.traffic_policy.as_ref()?)));
    let mut policies = None;
    let mut subsets: Vec<Subset> = Vec::new();
    for (r, spec) in rules {
        let mut out = Out { object: Some(&r.key), secrets, found: Vec::new() };
        if let Some(policy) = &spec.traffic_policy {
            if top.is_some_and(|(owner, _)| std::ptr::eq(owner, *r)) {
                policies = Some(port_policies(None, Some((policy, "spec.trafficPolicy")), defaults, &mut out));
            } else if let Some((owner, _)) = top {
                let message =
                    format!("{} has a trafficPolicy for this host and is older: this one has no effect", owner.key);
                let diagnostic = Diagnostic::warning(Code::SchemaWarning, message);
                out.say(diagnostic, "spec.trafficPolicy", "keep one of them");
            }
        }
        for (i, subset) in spec.subsets.iter().enumerate() {
            let at = format!("spec.subsets[{i}]");
            if let Some(other) = subsets.iter().find(|s| s.name == subset.name) {
                let owner = other.rule.object.as_ref().map(ToString::to_string).unwrap_or_default();
                let message = format!("{owner} has a subset {} for this host, which counts", subset.name);
                out.error(&format!("{at}.name"), message, "give each subset a name of its own");
                continue;
            }
            if subset.name.is_empty() {
                out.error(&format!("{at}.name"), "a subset without a name", "give it a name");
                continue;
            }
            let own_at = format!("{at}.trafficPolicy");
            let own = subset.traffic_policy.as_ref().map(|policy| (policy, own_at.as_str()));
            subsets.push(Subset {
                name: Arc::clone(&subset.name),
                labels: subset.labels.clone(),
                policies: port_policies(top.map(|(_, policy)| policy), own, defaults, &mut out),
                rule: out.reference(&at),
            });
        }
        found.extend(out.found.into_iter().map(|d| (Some((r.key.clone(), r.place.clone())), d)));
    }
    let policies = policies.unwrap_or_else(|| {
        port_policies(None, None, defaults, &mut Out { object: Some(&first.key), secrets, found: Vec::new() })
    });
    Some(DestinationPolicy {
        host: group.host,
        namespace: group.namespace,
        export: group.export,
        selector: group.selector,
        rules: rules.iter().map(|(r, _)| RuleRef { object: Some(r.key.clone()), field: "spec".into() }).collect(),
        policies,
        subsets,
    })
}

/// What holds where no DestinationRule speaks (`defaultTrafficPolicy`).
pub(super) fn of_mesh(defaults: &Defaults, found: &mut Vec<Diagnostic>) -> TrafficPolicy {
    let mut out = Out { object: None, secrets: &|_| None, found: Vec::new() };
    let policy = flatten(&Blocks::default(), defaults, &mut out);
    found.append(&mut out.found);
    policy
}

struct Out<'a> {
    object: Option<&'a ObjectKey>,
    secrets: &'a Secrets<'a>,
    found: Vec<Diagnostic>,
}

impl Out<'_> {
    fn error(&mut self, field: &str, message: impl Into<String>, fix: &str) {
        self.say(Diagnostic::error(Code::SchemaValidationError, message), field, fix);
    }

    fn not_supported(&mut self, field: &str, message: &str, fix: &str) {
        self.say(Diagnostic::warning(Code::NotSupported, message), field, fix);
    }

    fn say(&mut self, diagnostic: Diagnostic, field: &str, fix: &str) {
        let diagnostic = diagnostic.field(field).fix(fix);
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    fn reference(&self, field: &str) -> RuleRef {
        RuleRef { object: self.object.cloned(), field: field.into() }
    }
}

/// The blocks in force for one port, by reference to where they are written.
#[derive(Clone, Default)]
struct Blocks<'a> {
    balancer: Option<(&'a LoadBalancer, String)>,
    pool: Option<(&'a WirePool, String)>,
    outlier: Option<(&'a wire::OutlierDetection, String)>,
    tls: Option<(&'a wire::ClientTls, String)>,
    proxy: Option<(&'a wire::ProxyProtocol, String)>,
    budget: Option<&'a wire::RetryBudget>,
}

impl<'a> Blocks<'a> {
    /// Block by block; a port's own settings replace four of them as a whole, what they leave out is the default.
    fn over(mut self, policy: &'a wire::TrafficPolicy, at: &str, port: Option<u16>) -> Self {
        fn take<'a, T>(slot: &mut Option<(&'a T, String)>, new: Option<&'a T>, at: String) {
            if let Some(new) = new {
                *slot = Some((new, at));
            }
        }
        take(&mut self.balancer, policy.load_balancer.as_ref(), format!("{at}.loadBalancer"));
        take(&mut self.pool, policy.connection_pool.as_ref(), format!("{at}.connectionPool"));
        take(&mut self.outlier, policy.outlier_detection.as_ref(), format!("{at}.outlierDetection"));
        take(&mut self.tls, policy.tls.as_ref(), format!("{at}.tls"));
        take(&mut self.proxy, policy.proxy_protocol.as_ref(), format!("{at}.proxyProtocol"));
        self.budget = policy.retry_budget.as_ref().or(self.budget);
        let own = |(_, p): &(usize, &PortPolicy)| port.is_some_and(|port| p.port.number == i64::from(port));
        if let Some((i, own)) = policy.port_level_settings.iter().enumerate().find(own) {
            let at = format!("{at}.portLevelSettings[{i}]");
            self.balancer = own.load_balancer.as_ref().map(|b| (b, format!("{at}.loadBalancer")));
            self.pool = own.connection_pool.as_ref().map(|b| (b, format!("{at}.connectionPool")));
            self.outlier = own.outlier_detection.as_ref().map(|b| (b, format!("{at}.outlierDetection")));
            self.tls = own.tls.as_ref().map(|b| (b, format!("{at}.tls")));
        }
        self
    }
}

fn port_policies(
    top: Option<&wire::TrafficPolicy>,
    own: Option<(&wire::TrafficPolicy, &str)>,
    defaults: &Defaults,
    out: &mut Out<'_>,
) -> PortPolicies {
    let mut numbers: Vec<u16> = Vec::new();
    for (policy, at) in top.map(|p| (p, None)).into_iter().chain(own.map(|(p, at)| (p, Some(at)))) {
        for (i, port) in policy.port_level_settings.iter().enumerate() {
            match u16::try_from(port.port.number).ok().filter(|n| *n != 0) {
                Some(number) => numbers.push(number),
                None => {
                    if let Some(at) = at {
                        let message = format!("{} is not a port number; the settings have no effect", port.port.number);
                        let field = format!("{at}.portLevelSettings[{i}].port.number");
                        out.error(&field, message, "write the Service's port, a number from 1 to 65535");
                    }
                }
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut of = |port: Option<u16>| {
        let mut blocks = Blocks::default();
        if let Some(top) = top {
            blocks = blocks.over(top, "spec.trafficPolicy", port);
        }
        if let Some((own, at)) = own {
            blocks = blocks.over(own, at, port);
        }
        Arc::new(flatten(&blocks, defaults, out))
    };
    PortPolicies { base: of(None), ports: numbers.into_iter().map(|n| (n, of(Some(n)))).collect() }
}

fn flatten(blocks: &Blocks<'_>, defaults: &Defaults, out: &mut Out<'_>) -> TrafficPolicy {
    let mut policy = TrafficPolicy::default();
    if let Some((lb, at)) = &blocks.balancer {
        policy.balancer = balancer(lb, at, out);
        policy.locality = lb.locality_lb_setting.as_ref().map(|l| Arc::new(locality(l)));
        policy.warmup = warmup(lb, at, out);
    }
    let pool = blocks.pool.as_ref().map(|(pool, at)| (*pool, at.as_str()));
    let pool = pool.or(defaults.pool.as_ref().map(|pool| (pool, "data.mesh: defaultTrafficPolicy.connectionPool")));
    if let Some((pool, at)) = pool {
        policy.pool = connection_pool(pool, at, out);
    }
    let outlier = blocks.outlier.as_ref().map(|(outlier, at)| (*outlier, at.as_str()));
    let outlier = outlier
        .or(defaults.outlier.as_ref().map(|outlier| (outlier, "data.mesh: defaultTrafficPolicy.outlierDetection")));
    policy.outlier = outlier.map(|(outlier, at)| Arc::new(outlier_detection(outlier, at, out)));
    policy.retry_budget = blocks.budget.map(|budget| RetryBudget {
        percent: budget.percent.unwrap_or(RetryBudget::default().percent),
        min_concurrency: budget.min_retry_concurrency.unwrap_or(RetryBudget::default().min_concurrency),
    });
    policy.tls = blocks.tls.as_ref().and_then(|(tls, at)| tls::client_tls(tls, at, out)).map(Arc::new);
    policy.proxy_protocol = blocks.proxy.as_ref().and_then(|(proxy, at)| match &*proxy.version {
        "" | "V1" => Some(ProxyProtocol::V1),
        "V2" => Some(ProxyProtocol::V2),
        other => {
            out.error(
                &format!("{at}.version"),
                format!("{other:?} is not one we know; none is sent"),
                "write V1 or V2",
            );
            None
        }
    });
    policy
}

fn balancer(lb: &LoadBalancer, at: &str, out: &mut Out<'_>) -> Balancer {
    if let Some(hash) = &lb.consistent_hash {
        return consistent_hash(hash, &format!("{at}.consistentHash"), out)
            .map_or(Balancer::Default, |hash| Balancer::ConsistentHash(Arc::new(hash)));
    }
    match lb.simple.as_deref() {
        None | Some("" | "UNSPECIFIED") => Balancer::Default,
        Some("ROUND_ROBIN") => Balancer::RoundRobin,
        Some("LEAST_REQUEST" | "LEAST_CONN") => Balancer::LeastRequest,
        Some("RANDOM") => Balancer::Random,
        Some("PASSTHROUGH") => Balancer::Passthrough,
        Some(other) => {
            let fix = "write ROUND_ROBIN, LEAST_REQUEST, RANDOM or PASSTHROUGH";
            out.error(&format!("{at}.simple"), format!("{other:?} is no balancer we know; the default is used"), fix);
            Balancer::Default
        }
    }
}

fn consistent_hash(hash: &wire::ConsistentHash, at: &str, out: &mut Out<'_>) -> Option<ConsistentHash> {
    let some = |text: &Option<Arc<str>>| text.as_ref().filter(|text| !text.is_empty()).cloned();
    let mut keys = Vec::new();
    keys.extend(some(&hash.http_header_name).map(|name| HashKey::Header(name.to_ascii_lowercase().into())));
    keys.extend(hash.http_cookie.as_ref().filter(|c| !c.name.is_empty()).map(|cookie| HashKey::Cookie {
        name: Arc::clone(&cookie.name),
        path: (!cookie.path.is_empty()).then(|| Arc::clone(&cookie.path)),
        ttl: cookie.ttl.map(|ttl| ttl.0),
    }));
    keys.extend(hash.use_source_ip.filter(|on| *on).map(|_| HashKey::SourceIp));
    keys.extend(some(&hash.http_query_parameter_name).map(HashKey::Query));
    if keys.len() != 1 {
        let message = format!("{} keys to hash by instead of one; the default balancer is used", keys.len());
        out.error(at, message, "write one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
        return None;
    }
    let table = match hash.maglev {
        Some(maglev) => HashTable::Maglev { table_size: maglev_size(maglev.table_size, at, out) },
        None => {
            let size = hash.ring_hash.and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
            let minimum_size = size.filter(|n| *n > 0).unwrap_or(MINIMUM_RING);
            if minimum_size > MAXIMUM_RING {
                let message = format!("{minimum_size} is more than {MAXIMUM_RING}, which is used");
                out.error(&format!("{at}.ringHash.minimumRingSize"), message, "write a smaller number");
            }
            HashTable::Ring { minimum_size: minimum_size.min(MAXIMUM_RING) }
        }
    };
    Some(ConsistentHash { key: keys.swap_remove(0), table })
}

fn maglev_size(size: Option<u64>, at: &str, out: &mut Out<'_>) -> u64 {
    let size = size.filter(|n| *n > 0).unwrap_or(MAGLEV_TABLE);
    if size <= MAXIMUM_MAGLEV && is_prime(size) {
        return size;
    }
    let message = format!("{size} is no prime up to {MAXIMUM_MAGLEV}; {MAGLEV_TABLE} is used");
    out.error(&format!("{at}.maglev.tableSize"), message, "write a prime, or leave it out");
    MAGLEV_TABLE
}

/// Only for numbers up to a few millions: 2,236 divisions at most.
fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// `localityLbSetting` of a DestinationRule or the mesh.
pub(super) fn locality(setting: &wire::LocalitySetting) -> LocalityPolicy {
    if setting.enabled == Some(false) {
        return LocalityPolicy::Off;
    }
    if !setting.distribute.is_empty() {
        let distributions = setting.distribute.iter().map(|d| Distribution {
            from: Arc::clone(&d.from),
            to: d.to.iter().map(|(to, share)| (Arc::clone(to), *share)).collect(),
        });
        return LocalityPolicy::Distribute(distributions.collect());
    }
    if !setting.failover_priority.is_empty() {
        let keys = setting.failover_priority.iter().map(|key| match key.split_once('=') {
            Some((name, value)) => (name.into(), Some(value.into())),
            None => (Arc::clone(key), None),
        });
        return LocalityPolicy::Labels { keys: keys.collect(), always: false };
    }
    let regions = setting.failover.iter().map(|f| (Arc::clone(&f.from), Arc::clone(&f.to)));
    LocalityPolicy::Failover { regions: regions.collect(), always: false }
}

fn warmup(lb: &LoadBalancer, at: &str, out: &mut Out<'_>) -> Option<Warmup> {
    let old = lb.warmup_duration_secs.map(|duration| wire::Warmup { duration, ..wire::Warmup::default() });
    let warmup = lb.warmup.or(old).filter(|w| !w.duration.0.is_zero())?;
    let (minimum_percent, aggression) = (warmup.minimum_percent.unwrap_or(10.0), warmup.aggression.unwrap_or(1.0));
    if !(0.0..=100.0).contains(&minimum_percent) {
        let message = format!("{minimum_percent} is no percentage; there is no slow start");
        out.error(&format!("{at}.warmup.minimumPercent"), message, "write a number from 0 to 100");
        return None;
    }
    if !(aggression >= 1.0 && aggression.is_finite()) {
        let message = format!("{aggression} is less than 1; there is no slow start");
        out.error(&format!("{at}.warmup.aggression"), message, "write a number from 1 up");
        return None;
    }
    Some(Warmup { duration: warmup.duration.0, minimum_percent, aggression })
}

/// "zero value = unset" (SEMANTICS §5 "Connection pool").
fn connection_pool(pool: &WirePool, at: &str, out: &mut Out<'_>) -> ConnectionPool {
    let upgrade = match &*pool.http.h2_upgrade_policy {
        "" | "DEFAULT" => H2Upgrade::Default,
        "UPGRADE" => H2Upgrade::Upgrade,
        "DO_NOT_UPGRADE" => H2Upgrade::DoNotUpgrade,
        other => {
            let field = format!("{at}.http.h2UpgradePolicy");
            out.error(
                &field,
                format!("{other:?} is not one we know; DEFAULT is used"),
                "write DEFAULT, UPGRADE or DO_NOT_UPGRADE",
            );
            H2Upgrade::Default
        }
    };
    let mut number = |field: &str, n: i64| {
        if u32::try_from(n).is_err() {
            out.error(
                &format!("{at}.{field}"),
                format!("{n} is no limit; there is none"),
                "write a number from 0 (none) up",
            );
        }
        u32::try_from(n).ok().filter(|n| *n > 0)
    };
    let time = |span: Option<crate::config::resource::istio::wire::Span>| span.map(|s| s.0);
    let some = |span| time(span).filter(|t: &Duration| !t.is_zero());
    let (tcp, http) = (&pool.tcp, &pool.http);
    ConnectionPool {
        max_connections: number("tcp.maxConnections", tcp.max_connections),
        connect_timeout: some(tcp.connect_timeout),
        tcp_keepalive: tcp.tcp_keepalive.map(|k| TcpKeepalive {
            probes: k.probes,
            time: some(k.time),
            interval: some(k.interval),
        }),
        max_connection_duration: some(tcp.max_connection_duration),
        // "0s: no timeout" is written as such.
        tcp_idle_timeout: time(tcp.idle_timeout),
        max_pending_requests: number("http.http1MaxPendingRequests", http.http1_max_pending_requests),
        max_requests: number("http.http2MaxRequests", http.http2_max_requests),
        max_requests_per_connection: number("http.maxRequestsPerConnection", http.max_requests_per_connection),
        max_retries: number("http.maxRetries", http.max_retries),
        idle_timeout: some(http.idle_timeout),
        upgrade,
        use_client_protocol: http.use_client_protocol,
        max_concurrent_streams: number("http.maxConcurrentStreams", http.max_concurrent_streams),
    }
}

fn outlier_detection(o: &wire::OutlierDetection, at: &str, out: &mut Out<'_>) -> OutlierDetection {
    let default = OutlierDetection::default();
    let mut percent = |field: &str, n: i64, default: u32| match u32::try_from(n).ok().filter(|n| *n <= 100) {
        Some(0) => default,
        Some(n) => n,
        None => {
            let message = format!("{n} is no percentage; {default} is used");
            out.error(&format!("{at}.{field}"), message, "write a number from 0 to 100");
            default
        }
    };
    let max_ejection_percent = percent("maxEjectionPercent", o.max_ejection_percent, default.max_ejection_percent);
    let min_health_percent = percent("minHealthPercent", o.min_health_percent, default.min_health_percent);
    let base_ejection = o.base_ejection_time.map(|t| t.0).filter(|t| !t.is_zero()).unwrap_or(default.base_ejection);
    let mut codes: Vec<u16> = Vec::new();
    for (i, code) in o.outlier_detection_http_error_codes.iter().enumerate() {
        match u16::try_from(*code).ok().filter(|code| (100..600).contains(code)) {
            Some(code) => codes.push(code),
            None => {
                let field = format!("{at}.outlierDetectionHttpErrorCodes[{i}]");
                out.error(
                    &field,
                    format!("{code} is not an HTTP status; it is left out"),
                    "write a number from 100 to 599",
                );
            }
        }
    }
    let old = o.consecutive_errors.and_then(|n| u32::try_from(n).ok());
    OutlierDetection {
        consecutive_5xx: o.consecutive_5xx_errors.unwrap_or(default.consecutive_5xx),
        consecutive_gateway: o.consecutive_gateway_errors.or(old).unwrap_or(default.consecutive_gateway),
        split_local_origin: o.split_external_local_origin_errors,
        consecutive_local_origin: o.consecutive_local_origin_failures.unwrap_or(default.consecutive_local_origin),
        interval: o.interval.map(|t| t.0).filter(|t| !t.is_zero()).unwrap_or(default.interval),
        base_ejection,
        // "max ejection time: 300 s, or base if larger"
        max_ejection: default.max_ejection.max(base_ejection),
        max_ejection_percent,
        min_health_percent,
        http_errors: (!codes.is_empty()).then_some(codes),
    }
}
