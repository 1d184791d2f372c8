//! Names of ServiceEntries → addresses, kept fresh.
//!
//! Place in the path: beside the sources; its answers reach the compiler as one more kind of change
//! ([`Changes::resolved`](super::Changes)), so that compilation stays pure. Invariant: a name that has been answered once
//! keeps its last good answer until another good one comes; a DNS server that is away takes nothing down.

use hickory_resolver::TokioResolver;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A TTL of 0 does not mean a query a millisecond.
const SOONEST: Duration = Duration::from_secs(1);
/// A long TTL is not believed for longer: addresses move.
const LATEST: Duration = Duration::from_secs(300);
/// Envoy's `dns_failure_refresh_rate` as Istio leaves it.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A name and its addresses, as DNS answered.
pub type Answer = (Arc<str>, Vec<IpAddr>);

/// Resolves the names that are wanted, one task for each, on the runtime it is made on.
#[derive(Debug)]
pub struct Names {
    resolver: TokioResolver,
    answers: mpsc::UnboundedSender<Answer>,
    tasks: HashMap<Arc<str>, JoinHandle<()>>,
}

impl Names {
    /// By the system's configuration (`/etc/resolv.conf`, `/etc/hosts`).
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn of_system() -> Result<(Self, mpsc::UnboundedReceiver<Answer>), hickory_resolver::net::NetError> {
        Ok(Self::new(TokioResolver::builder_tokio()?.build()?))
    }

    fn new(resolver: TokioResolver) -> (Self, mpsc::UnboundedReceiver<Answer>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        (Self { resolver, answers, tasks: HashMap::new() }, receiver)
    }

    /// From now on these names, and no others.
    pub fn want<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        let names: BTreeSet<&Arc<str>> = names.collect();
        self.tasks.retain(|name, task| {
            let wanted = names.contains(name);
            if !wanted {
                task.abort();
            }
            wanted
        });
        for name in names {
            if !self.tasks.contains_key(name) {
                let task = keep(self.resolver.clone(), Arc::clone(name), self.answers.clone());
                self.tasks.insert(Arc::clone(name), tokio::spawn(task));
            }
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

/// Asks whenever the last answer has run out; tells what is new.
async fn keep(resolver: TokioResolver, name: Arc<str>, answers: mpsc::UnboundedSender<Answer>) {
    // A name with a dot at its end is not searched for in the resolver's own domains.
    let query = format!("{}.", name.trim_end_matches('.'));
    let mut last: Option<Vec<IpAddr>> = None;
    loop {
        let pause = match resolver.lookup_ip(query.as_str()).await {
            Ok(found) => {
                let addresses: Vec<IpAddr> = found.iter().map(|ip| ip.to_canonical()).collect();
                let left = found.valid_until().saturating_duration_since(Instant::now());
                if !addresses.is_empty() && last.as_ref() != Some(&addresses) {
                    tracing::debug!(%name, ?addresses, "resolved");
                    if answers.send((Arc::clone(&name), addresses.clone())).is_err() {
                        return;
                    }
                    last = Some(addresses);
                }
                left.clamp(SOONEST, LATEST)
            }
            Err(error) => {
                let kept = if last.is_some() { "the last answer stays" } else { "no endpoints until it is answered" };
                tracing::warn!(%name, %error, "not resolved: {kept}");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
