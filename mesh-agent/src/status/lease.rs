//! Who writes: whoever holds the Lease, as client-go's leader election has it (`tools/leaderelection`), so that any
//! client of it and we would understand each other. Clocks of nodes are not compared: a record counts from when it was
//! seen to change.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// client-go's defaults: others wait this long for a holder that is silent,
const DURATION: Duration = Duration::from_secs(15);
/// a holder that could not renew for this long stops,
const DEADLINE: Duration = Duration::from_secs(10);
/// and everybody looks this often.
const RETRY: Duration = Duration::from_secs(2);

/// Name of the Lease.
pub(super) const NAME: &str = "undermesh-status";

pub(super) struct Campaign {
    api: Api<Lease>,
    identity: String,
    seen: Seen,
}

/// The record as it was last seen to change, by our own clock.
#[derive(Default)]
struct Seen {
    spec: Option<LeaseSpec>,
    at: Option<Instant>,
}

impl Campaign {
    pub(super) fn new(client: &Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), identity: identity.into(), seen: Seen::default() }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(mut self, leads: watch::Sender<bool>) {
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed: Option<Instant> = None;
        let mut said = false;
        while !leads.is_closed() {
            tick.tick().await;
            match timeout(RETRY * 2, self.attempt()).await {
                Ok(Ok(true)) => renewed = Some(Instant::now()),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(%error, "the Lease {NAME} cannot be had: others must write statuses");
                    }
                }
                Err(_) => tracing::debug!("the API server does not answer about the Lease in time"),
            }
            let lead = renewed.is_some_and(|at| at.elapsed() < DEADLINE);
            let turned = leads.send_if_modified(|leading| std::mem::replace(leading, lead) != lead);
            if turned {
                said = false;
                tracing::info!(identity = self.identity, lead, "writer of statuses and Events");
            }
        }
    }

    /// Whether we hold it now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None)) };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let now = Instant::now();
        self.seen.note(lease.spec.as_ref(), now);
        if !self.seen.is_free(&self.identity, now) {
            return Ok(false);
        }
        lease.spec = Some(self.record(lease.spec.as_ref()));
        // With the resourceVersion that was read: of two that try, one gets 409.
        let done = self.api.replace(NAME, &PostParams::default(), &lease).await?;
        self.seen.note(done.spec.as_ref(), now);
        Ok(true)
    }

    fn record(&self, former: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = former.filter(|spec| spec.holder_identity.as_deref() == Some(&*self.identity));
        let turns = former.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            // It fits: 15.
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(turns + i32::from(former.is_some() && ours.is_none())),
            ..LeaseSpec::default()
        }
    }
}

impl Seen {
    fn note(&mut self, spec: Option<&LeaseSpec>, now: Instant) {
        if self.spec.as_ref() != spec || self.at.is_none() {
            self.spec = spec.cloned();
            self.at = Some(now);
        }
    }

    fn is_free(&self, identity: &str, now: Instant) -> bool {
        let holder = self.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        holder.is_empty()
            || holder == identity
            || self.at.is_none_or(|at| now.saturating_duration_since(at) >= DURATION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(who: &str, turns: i32) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(who.into()), lease_transitions: Some(turns), ..LeaseSpec::default() }
    }

    #[test]
    fn a_lease_is_free_when_its_record_has_not_changed_for_its_duration() {
        let start = Instant::now();
        let mut seen = Seen::default();
        assert!(seen.is_free("a", start), "nobody has it");
        seen.note(Some(&held_by("b", 0)), start);
        assert!(!seen.is_free("a", start + DURATION / 2));
        assert!(seen.is_free("b", start), "it is b's own");
        // The holder renews: what counts is the change, not the time that is written there.
        seen.note(Some(&held_by("b", 1)), start + DURATION / 2);
        seen.note(Some(&held_by("b", 1)), start + DURATION);
        assert!(!seen.is_free("a", start + DURATION));
        assert!(seen.is_free("a", start + DURATION + DURATION / 2));
        seen.note(Some(&held_by("", 1)), start);
        assert!(seen.is_free("a", start), "it was given back");
    }
}
