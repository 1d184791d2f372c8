use super::*;
use crate::snapshot::{Enrolment, Locality, Owner};
use std::collections::BTreeMap;
use tokio::runtime::{Builder, LocalOptions};

fn pod(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        key: WorkloadKey { namespace: "shop".into(), name: name.into(), uid: name.into() },
        owner: Owner { kind: "Deployment".into(), name: name.into() },
        service_account: "".into(),
        node: "".into(),
        labels: BTreeMap::new(),
        ips: Vec::new(),
        locality: Locality::default(),
        enrolment: Enrolment::Elsewhere,
    })
}

/// Uses the CPU for some time.
fn burn(time: Duration) {
    let begun = thread_time();
    while thread_time().saturating_sub(begun) < time {}
}

fn on_a_worker<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("runtime");
    runtime.block_on(work)
}

/// A clock is read, and a busy machine takes the CPU away in between: one round of many must be undisturbed.
fn in_some_round(mut round: impl FnMut() -> Result<(), String>) {
    let mut said = Vec::new();
    let good = (0..50).any(|_| round().map_err(|why| said.push(why)).is_ok());
    assert!(good, "{said:?}");
}

#[test]
fn pods_pay_in_proportion_and_all_of_it_is_paid() {
    in_some_round(proportion);
}

fn proportion() -> Result<(), String> {
    let costs = Arc::new(Costs::default());
    let (begun, used) = on_a_worker(async {
        let begun = thread_time();
        let accounts = Accounts::new(Arc::clone(&costs));
        for (name, times) in [("web", 30), ("api", 10)] {
            // A task of a task is paid for by the same pod.
            spawn_for(accounts.of(Some(&pod(name))), async move {
                spawn(async move {
                    for _ in 0..times {
                        burn(Duration::from_millis(2));
                        tokio::task::yield_now().await;
                    }
                });
            });
        }
        // After them: tasks are polled in turn.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        accounts.settle();
        (begun, thread_time())
    });
    let spent: BTreeMap<_, _> =
        costs.pods().iter().map(|spent| (spent.workload().unwrap().key.name.to_string(), spent.cpu())).collect();
    let ratio = spent["web"].as_secs_f64() / spent["api"].as_secs_f64();
    let all: Duration = spent.values().sum::<Duration>() + costs.own().cpu();
    let used = used - begun;
    let good = (2.0..4.5).contains(&ratio) && all <= used && all > used.mul_f64(0.95);
    if good { Ok(()) } else { Err(format!("{spent:?}, {all:?} of {used:?}")) }
}

#[test]
fn many_polls_are_measured_in_part_and_shares_stay_right() {
    in_some_round(shares);
}

fn shares() -> Result<(), String> {
    let costs = Arc::new(Costs::default());
    on_a_worker(async {
        let accounts = Accounts::new(Arc::clone(&costs));
        METER.with(|meter| {
            meter.polls.set(SPARSEST * MEASURED);
            meter.adjust();
            assert_eq!(meter.every.get(), SPARSEST);
            let [web, api] = ["web", "api"].map(|name| accounts.of(Some(&pod(name))));
            for _ in 0..4_000 {
                meter.charge(&web, || burn(Duration::from_micros(20)));
                meter.charge(&api, || burn(Duration::from_micros(5)));
            }
            let measured = |account: &Rc<Account>| account.measured.get() as f64;
            let (share, all) = (measured(&web) / (measured(&web) + measured(&api)), measured(&web) + measured(&api));
            // Four fifths; a sixteenth of 100 ms, and what looking at the clock takes.
            let good = (0.6..0.95).contains(&share) && all < 60e6;
            if good { Ok(()) } else { Err(format!("{share} of {all} ns")) }
        })
    })
}

#[test]
fn what_is_held_counts_for_who_paid_when_it_began() {
    let costs = Arc::new(Costs::default());
    on_a_worker(async {
        let accounts = Accounts::new(Arc::clone(&costs));
        let held = METER.with(|meter| meter.charge(&accounts.of(Some(&pod("web"))), || Held::new(CONNECTION)));
        let bytes = || costs.pods()[0].bytes();
        assert_eq!(bytes(), CONNECTION as u64);
        held.set(CONNECTION + 10);
        assert_eq!(bytes(), CONNECTION as u64 + 10);
        held.set(10);
        assert_eq!(bytes(), 10);
        drop(held);
        assert_eq!(bytes(), 0);
        drop(Held::new(7));
        assert_eq!(costs.own().bytes(), 0, "nobody pays");
    });
}

#[test]
fn pods_that_have_gone_are_forgotten_after_their_connections() {
    let costs = Arc::new(Costs::default());
    let accounts = Accounts::new(Arc::clone(&costs));
    let account = accounts.of(Some(&pod("web")));
    accounts.settle();
    costs.sweep(|_| false);
    assert_eq!(costs.pods().len(), 1, "a connection is open");
    drop(account);
    accounts.settle();
    costs.sweep(|key| &*key.name == "web");
    assert_eq!(costs.pods().len(), 1);
    costs.sweep(|_| false);
    assert!(costs.pods().is_empty());
}
