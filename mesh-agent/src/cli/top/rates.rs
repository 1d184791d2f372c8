//! Agents count from their start; people want rates. Pure, and as the console has it (`dashboard/page/rates.js`).

use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Time over which rates are taken: long enough to be steady, short enough to be live.
pub(in crate::cli) const WINDOW: Duration = Duration::from_secs(10);

/// What a row is about: its name, and what it belongs to (a route's Service, a pod's workload) or nothing.
pub(in crate::cli) type Name = (String, String);

/// Since the agent's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::cli) struct Counts {
    pub(in crate::cli) requests: u64,
    pub(in crate::cli) failures: u64,
    /// By duration, not cumulative.
    pub(in crate::cli) buckets: Vec<u64>,
    /// Requests that it made itself.
    pub(in crate::cli) asked: u64,
    /// What the agent spends for it: CPU time, and memory now. `None` where that is not told apart.
    pub(in crate::cli) costs: Option<(f64, u64)>,
}

/// One answer of every agent that is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::cli) struct Scrape {
    /// On any steady clock.
    pub(in crate::cli) at: Duration,
    pub(in crate::cli) bounds_ms: Vec<f64>,
    /// By agent: each begins anew by itself.
    pub(in crate::cli) agents: BTreeMap<String, BTreeMap<Name, Counts>>,
}

/// One line of `top`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Row {
    pub(in crate::cli) name: String,
    /// Of a route its Service, of a pod its workload; else empty.
    pub(in crate::cli) of: String,
    pub(in crate::cli) requests: u64,
    pub(in crate::cli) failures: u64,
    /// Requests a second; `None`: counted since the start.
    pub(in crate::cli) rate: Option<f64>,
    /// Of one; `None` without requests.
    pub(in crate::cli) success: Option<f64>,
    pub(in crate::cli) p50_ms: Option<f64>,
    pub(in crate::cli) p95_ms: Option<f64>,
    pub(in crate::cli) p99_ms: Option<f64>,
    /// Requests that it made itself.
    pub(in crate::cli) asked: u64,
    /// CPU time that the agent's workers used for it.
    pub(in crate::cli) cpu_seconds: Option<f64>,
    /// What the agent holds for it now.
    pub(in crate::cli) memory_bytes: Option<u64>,
}

/// The last answers, as old as [`WINDOW`].
#[derive(Debug, Default)]
pub(in crate::cli) struct Recent(VecDeque<Scrape>);

impl Recent {
    pub(in crate::cli) fn add(&mut self, scrape: Scrape) {
        while self.0.get(1).is_some_and(|second| scrape.at.saturating_sub(second.at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back(scrape);
    }

    /// What happened since the oldest answer, and in how long; nothing before there are two.
    pub(in crate::cli) fn rows(&self) -> (Duration, Vec<Row>) {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) if self.0.len() > 1 => {
                let time = last.at.saturating_sub(first.at);
                // An agent that was not heard before has nothing to be compared with.
                let both = last.agents.iter().filter_map(|(agent, now)| Some((now, first.agents.get(agent)?)));
                let since = both.flat_map(|(now, before)| {
                    now.iter().map(|(name, now)| {
                        (name, before.get(name).map_or_else(|| now.clone(), |before| now.since(before)))
                    })
                });
                (time, gathered(since, &last.bounds_ms, Some(time)))
            }
            _ => (Duration::ZERO, Vec::new()),
        }
    }
}

impl Scrape {
    /// Everything since the agents' start.
    pub(in crate::cli) fn totals(&self) -> Vec<Row> {
        let all = self.agents.values().flatten().map(|(name, counts)| (name, counts.clone()));
        gathered(all, &self.bounds_ms, None)
    }
}

/// What several agents counted of one name is one row.
fn gathered<'a>(
    counts: impl Iterator<Item = (&'a Name, Counts)>,
    bounds_ms: &[f64],
    time: Option<Duration>,
) -> Vec<Row> {
    let mut names: BTreeMap<&Name, Counts> = BTreeMap::new();
    for (name, counts) in counts {
        let sum = names.entry(name).or_default();
        sum.add(counts.requests, counts.failures, &counts.buckets);
        sum.asked += counts.asked;
        sum.costs = match (sum.costs, counts.costs) {
            (Some((cpu, bytes)), Some((more, others))) => Some((cpu + more, bytes + others)),
            (one, other) => one.or(other),
        };
    }
    names.into_iter().map(|(name, sum)| sum.row(name, bounds_ms, time)).collect()
}

impl Counts {
    pub(in crate::cli) fn add(&mut self, requests: u64, failures: u64, buckets: &[u64]) {
        self.requests += requests;
        self.failures += failures;
        if self.buckets.len() < buckets.len() {
            self.buckets.resize(buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(buckets).for_each(|(sum, count)| *sum += count);
    }

    fn since(&self, before: &Self) -> Self {
        // A counter that fell was reset: its agent started anew, or it was forgotten meanwhile.
        let since = |now: u64, before: u64| if now >= before { now - before } else { now };
        let old = before.buckets.iter().copied().chain(std::iter::repeat(0));
        Self {
            requests: since(self.requests, before.requests),
            failures: since(self.failures, before.failures),
            buckets: self.buckets.iter().zip(old).map(|(now, before)| since(*now, before)).collect(),
            asked: since(self.asked, before.asked),
            costs: self.costs.map(|(cpu, memory)| {
                let former = before.costs.map_or(0.0, |(cpu, _)| cpu);
                (if cpu >= former { cpu - former } else { cpu }, memory)
            }),
        }
    }

    fn row(&self, (name, of): &Name, bounds_ms: &[f64], time: Option<Duration>) -> Row {
        let quantile = |share| quantile(share, bounds_ms, &self.buckets);
        let failed = self.failures.min(self.requests) as f64;
        Row {
            name: name.clone(),
            of: of.clone(),
            requests: self.requests,
            failures: self.failures,
            rate: time.map(|time| self.requests as f64 / time.as_secs_f64().max(1e-9)),
            success: (self.requests > 0).then(|| 1.0 - failed / self.requests as f64),
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            asked: self.asked,
            cpu_seconds: self.costs.map(|(cpu, _)| cpu),
            memory_bytes: self.costs.map(|(_, memory)| memory),
        }
    }
}

/// A quantile of counts per bucket (the last one beyond all bounds), straight within a bucket as Prometheus'
/// `histogram_quantile()` has it; `None` where nothing was counted.
pub(in crate::cli) fn quantile(share: f64, bounds: &[f64], buckets: &[u64]) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return None;
    }
    let mut left = share * all as f64;
    let mut from = 0.0;
    for (at, count) in buckets.iter().enumerate() {
        // Beyond all bounds nothing more is known.
        let Some(bound) = bounds.get(at) else { break };
        let count = *count as f64;
        if left <= count {
            return Some(from + (bound - from) * if count > 0.0 { left / count } else { 1.0 });
        }
        left -= count;
        from = *bound;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(seconds: u64, requests: u64, failures: u64) -> Scrape {
        let counts = Counts {
            requests,
            failures,
            buckets: vec![requests, 0],
            asked: 2 * requests,
            costs: Some((requests as f64, 9)),
        };
        let rows = BTreeMap::from([(("db".to_owned(), String::new()), counts)]);
        let agents = BTreeMap::from([("n1".to_owned(), rows)]);
        Scrape { at: Duration::from_secs(seconds), bounds_ms: vec![10.0], agents }
    }

    /// Agents of two nodes.
    fn both(one: Scrape, other: Scrape) -> Scrape {
        let mut both = one;
        both.agents.extend(other.agents.into_values().map(|rows| ("n2".to_owned(), rows)));
        both
    }

    #[test]
    fn rates_are_differences_within_the_window() {
        let mut recent = Recent::default();
        recent.add(scrape(0, 100, 0));
        assert!(recent.rows().1.is_empty());
        recent.add(scrape(2, 120, 5));
        let (time, rows) = recent.rows();
        assert_eq!((time.as_secs(), rows[0].requests, rows[0].rate, rows[0].success), (2, 20, Some(10.0), Some(0.75)));
        assert_eq!((rows[0].p50_ms, rows[0].asked), (Some(5.0), 40));
        assert_eq!((rows[0].cpu_seconds, rows[0].memory_bytes), (Some(20.0), Some(9)));
        // Answers go when the next one is old enough.
        for second in 3..=13 {
            recent.add(scrape(second, 120 + second, 5));
        }
        assert_eq!(recent.rows().0.as_secs(), 10);
        // A new agent counts from nothing.
        recent.add(scrape(14, 7, 0));
        assert_eq!(recent.rows().1[0].requests, 7);
    }

    #[test]
    fn agents_are_summed_and_begin_anew_each_by_itself() {
        let mut recent = Recent::default();
        recent.add(both(scrape(0, 100, 0), scrape(0, 1000, 0)));
        // The second one starts anew, and has served 3 since.
        recent.add(both(scrape(2, 110, 1), scrape(2, 3, 0)));
        let (_, rows) = recent.rows();
        assert_eq!((rows.len(), rows[0].requests, rows[0].failures, rows[0].asked), (1, 13, 1, 26));
        assert_eq!(both(scrape(0, 4, 1), scrape(0, 6, 0)).totals()[0].requests, 10);
        // One that answers for the first time has counted from long ago.
        let mut recent = Recent::default();
        recent.add(scrape(0, 5, 0));
        recent.add(both(scrape(2, 9, 0), scrape(2, 1000, 0)));
        assert_eq!(recent.rows().1[0].requests, 4);
    }

    #[test]
    fn totals_have_no_rate() {
        let rows = scrape(5, 8, 2).totals();
        assert_eq!((rows[0].requests, rows[0].failures, rows[0].rate), (8, 2, None));
    }

    #[test]
    fn quantiles_are_straight_within_a_bucket() {
        let bounds = [1.0, 5.0, 10.0];
        assert_eq!(quantile(0.5, &bounds, &[0, 4, 0, 0]), Some(3.0));
        assert_eq!(quantile(0.99, &bounds, &[0, 0, 0, 9]), Some(10.0), "no bound above");
        assert_eq!(quantile(0.5, &bounds, &[0, 0, 0, 0]), None);
        assert_eq!(quantile(0.0, &bounds, &[0, 2, 0, 0]), Some(1.0));
    }
}
