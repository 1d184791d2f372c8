//! When endpoints came. Slow start counts from there: clusters are made when somebody first asks for them, and to a
//! cluster that is made anew all its endpoints would look equally new.

use crate::addr::EndpointAddr;
use crate::snapshot::{EndpointHealth, EndpointSet, PortKey};
use crate::time::Nanos;
use rustc_hash::{FxHashMap, FxHashSet};
use std::time::Duration;

/// Endpoints that came while their Service was in force. 48 bytes each, until they leave or `REMEMBERED` is over.
#[derive(Debug, Default)]
pub(super) struct Arrivals(FxHashMap<PortKey, FxHashMap<EndpointAddr, Nanos>>);

/// A longer warm-up ends here.
const REMEMBERED: Duration = Duration::from_secs(3600);

impl Arrivals {
    /// The beginning of time where nobody saw it come: it was there before.
    pub(super) fn of(&self, port: &PortKey, addr: EndpointAddr) -> Nanos {
        self.0.get(port).and_then(|known| known.get(&addr)).copied().unwrap_or_default()
    }

    /// `new` takes the place of `old`. What becomes ready comes, what is ready no more has left.
    pub(super) fn note(&mut self, port: &PortKey, old: &EndpointSet, new: &EndpointSet, now: Nanos) {
        let (before, after) = (ready(old), ready(new));
        let known = self.0.entry(port.clone()).or_default();
        known.retain(|addr, _| after.contains(addr));
        known.extend(after.difference(&before).map(|addr| (*addr, now)));
        if known.is_empty() {
            self.0.remove(port);
        }
    }

    pub(super) fn forget(&mut self, port: &PortKey) {
        self.0.remove(port);
    }

    pub(super) fn sweep(&mut self, now: Nanos) {
        self.0.retain(|_, known| {
            known.retain(|_, since| now.since(*since) < REMEMBERED);
            !known.is_empty()
        });
    }
}

fn ready(set: &EndpointSet) -> FxHashSet<EndpointAddr> {
    set.endpoints.iter().filter(|e| e.health == EndpointHealth::Ready).map(|e| e.addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Endpoint, Locality, ServiceName};

    fn addr(last: u8) -> EndpointAddr {
        EndpointAddr::new(([10, 0, 0, last], 80).into())
    }

    fn set(ready: &[u8], unready: &[u8]) -> EndpointSet {
        let of = |last: &u8, health| Endpoint {
            addr: addr(*last),
            weight: 1,
            health,
            workload: None,
            locality: Locality::default(),
        };
        let ready = ready.iter().map(|last| of(last, EndpointHealth::Ready));
        EndpointSet { endpoints: ready.chain(unready.iter().map(|last| of(last, EndpointHealth::NotReady))).collect() }
    }

    #[test]
    fn an_endpoint_comes_when_it_becomes_ready() {
        let port = PortKey::new(ServiceName::new("a", "b"), 80);
        let mut arrivals = Arrivals::default();
        let at = |seconds: u64| Nanos(seconds * 1_000_000_000);
        arrivals.note(&port, &set(&[1], &[]), &set(&[1], &[2]), at(5));
        arrivals.note(&port, &set(&[1], &[2]), &set(&[1, 2], &[]), at(6));
        arrivals.note(&port, &set(&[1, 2], &[]), &set(&[1, 2, 3], &[]), at(7));
        let of = |arrivals: &Arrivals| [1, 2, 3].map(|last| arrivals.of(&port, addr(last)));
        assert_eq!(of(&arrivals), [Nanos(0), at(6), at(7)], "the first was always there");
        arrivals.note(&port, &set(&[1, 2, 3], &[]), &set(&[1, 3], &[2]), at(8));
        assert_eq!(of(&arrivals), [Nanos(0), Nanos(0), at(7)], "who leaves is forgotten");
        arrivals.sweep(at(7 + 3600));
        assert!(arrivals.0.is_empty());
    }
}
