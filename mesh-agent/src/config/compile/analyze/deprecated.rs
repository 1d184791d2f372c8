//! Fields that Istio's API calls deprecated (IST0002): they hold here as they do there, for as long as Istio has them.

use super::World;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::istio::destination_rule::{LoadBalancer, OutlierDetection, TrafficPolicy};

pub(super) fn analyze(world: &mut World<'_>) {
    for (r, spec) in world.virtual_services() {
        for (i, http) in spec.http.iter().enumerate() {
            let delay = http.fault.as_ref().and_then(|fault| fault.delay.as_ref());
            let origins = http.cors_policy.as_ref().map_or(&[][..], |cors| &cors.allow_origin);
            for (given, field, instead) in [
                (delay.is_some_and(|delay| delay.percent.is_some()), "fault.delay.percent", "percentage"),
                (!origins.is_empty(), "corsPolicy.allowOrigin", "allowOrigins"),
                (http.mirror_percent.is_some(), "mirrorPercent", "mirrorPercentage"),
            ] {
                say(world, r, given, format!("spec.http[{i}].{field}"), instead);
            }
        }
    }
    for (r, spec) in world.destination_rules() {
        policy(world, r, "spec.trafficPolicy", spec.traffic_policy.as_ref());
        for (i, subset) in spec.subsets.iter().enumerate() {
            policy(world, r, &format!("spec.subsets[{i}].trafficPolicy"), subset.traffic_policy.as_ref());
        }
    }
}

fn policy(world: &mut World<'_>, r: &Resource, at: &str, policy: Option<&TrafficPolicy>) {
    let Some(policy) = policy else { return };
    blocks(world, r, at, policy.load_balancer.as_ref(), policy.outlier_detection.as_ref());
    for (i, port) in policy.port_level_settings.iter().enumerate() {
        let at = format!("{at}.portLevelSettings[{i}]");
        blocks(world, r, &at, port.load_balancer.as_ref(), port.outlier_detection.as_ref());
    }
}

fn blocks(
    world: &mut World<'_>,
    r: &Resource,
    at: &str,
    balancer: Option<&LoadBalancer>,
    detector: Option<&OutlierDetection>,
) {
    let hash = balancer.and_then(|balancer| balancer.consistent_hash.as_ref());
    for (given, field, instead) in [
        (
            balancer.is_some_and(|balancer| balancer.simple.as_deref() == Some("LEAST_CONN")),
            "loadBalancer.simple",
            "LEAST_REQUEST",
        ),
        (
            balancer.is_some_and(|balancer| balancer.warmup_duration_secs.is_some()),
            "loadBalancer.warmupDurationSecs",
            "warmup.duration",
        ),
        (
            hash.is_some_and(|hash| hash.minimum_ring_size.is_some()),
            "loadBalancer.consistentHash.minimumRingSize",
            "ringHash.minimumRingSize",
        ),
        (
            detector.is_some_and(|detector| detector.consecutive_errors.is_some()),
            "outlierDetection.consecutiveErrors",
            "consecutiveGatewayErrors or consecutive5xxErrors",
        ),
    ] {
        say(world, r, given, format!("{at}.{field}"), instead);
    }
}

fn say(world: &mut World<'_>, r: &Resource, given: bool, field: String, instead: &str) {
    if given {
        let what = field.rsplit('.').next().unwrap_or_default();
        let diagnostic = Diagnostic::warning(Code::Deprecated, format!("what {what} says here is deprecated in Istio"));
        world.say(r, diagnostic, field, format!("write {instead}"));
    }
}
