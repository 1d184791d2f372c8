use super::*;
use crate::telemetry::Callee;

fn labels(name: &str, undeclared: bool) -> Labels {
    let callee = Callee { host: name.into(), name: name.into(), namespace: "".into(), undeclared };
    let who = Who { source: None, destination: None, callee: Arc::new(callee) };
    Labels { text: format!("destination_service=\"{name}\"").into(), who: Arc::new(who) }
}

fn lines(store: &Store) -> Vec<(Family, String, u64)> {
    let mut all = Vec::new();
    store.read(|family, labels, value| {
        let count = match value {
            Value::Counter(count) => count,
            Value::Histogram(total) => total.counts.iter().sum(),
        };
        all.push((family, labels.to_owned(), count));
    });
    all
}

fn count(store: &Store, labels: &Labels) -> Counter {
    store.counter(Family::Requests, 0, Reporter::Source, labels)
}

#[test]
fn workers_count_apart_and_are_summed() {
    let store = Store::new(MOST_SERIES);
    for worker in [3, 0, 3] {
        store.counter(Family::TcpSent, worker, Reporter::Source, &labels("db", false)).add(5);
        store.histogram(Family::Duration, worker, Reporter::Source, &labels("db", false)).observe(1, None);
    }
    let text = "destination_service=\"db\"".to_owned();
    assert_eq!(lines(&store), [(Family::Duration, text.clone(), 3), (Family::TcpSent, text, 15)]);
    assert_eq!(store.usage(), [1 + OF_HISTOGRAM as u64, 10_000, 0]);
}

#[test]
fn the_budget_holds_and_what_goes_gives_its_share_back() {
    // 146 are overflow's own.
    let store = Store::new(149);
    for name in ["a", "b", "c", "d", "e", "a"] {
        count(&store, &labels(name, false)).add(1);
    }
    let [used, _, refused] = store.usage();
    assert_eq!((used, refused), (3, 2));
    let counts = lines(&store);
    assert_eq!(counts.len(), 4);
    let overflow = counts.iter().find(|(_, labels, _)| labels.contains("destination_service=\"overflow\"")).unwrap();
    assert_eq!(overflow.2, 2, "nothing is lost: {overflow:?}");
    assert!(overflow.1.starts_with("reporter=\"source\"") && overflow.1.contains("response_code=\"overflow\""));
    for at in [Nanos(1), Nanos(1).plus(KEPT)] {
        store.sweep(at, |who| &*who.callee.name == "b");
    }
    assert_eq!(store.usage()[0], 1);
    count(&store, &labels("e", false)).add(1);
    assert_eq!(store.usage(), [2, 149, 2]);
}

#[test]
fn strangers_and_histograms_leave_room_for_counters_of_what_is_declared() {
    let store = Store::new(MOST_SERIES);
    for number in 0..5_000 {
        count(&store, &labels(&number.to_string(), true)).add(1);
    }
    assert_eq!(store.usage()[0], 1_000);
    for number in 0..1_000 {
        store.histogram(Family::Duration, 0, Reporter::Source, &labels(&format!("h{number}"), false)).observe(1, None);
    }
    assert_eq!(store.usage()[0], 7_490, "295 histograms beside the strangers");
    for number in 0..5_000 {
        count(&store, &labels(&format!("c{number}"), false)).add(1);
    }
    assert_eq!(store.usage()[0], 10_000 - 146);
    let all = lines(&store);
    let series: usize = all.iter().map(|(family, ..)| family.cost()).sum();
    assert!(series <= MOST_SERIES, "{series}");
    assert_eq!(all.iter().filter(|(family, ..)| !family.is_histogram()).map(|(.., n)| n).sum::<u64>(), 10_000);
}

#[test]
fn only_what_nobody_holds_and_nothing_names_goes() {
    let store = Store::new(MOST_SERIES);
    let held = count(&store, &labels("held", false));
    ["alive", "back", "gone"].iter().for_each(|name| count(&store, &labels(name, false)).add(1));
    let names = |store: &Store| lines(store).into_iter().map(|(_, labels, _)| labels).collect::<Vec<_>>().join(" ");
    let mut now = Nanos(1);
    store.sweep(now, |who| &*who.callee.name == "alive");
    now = now.plus(KEPT / 2);
    // Named again for a moment: its time starts anew.
    store.sweep(now, |who| &*who.callee.name != "gone");
    now = now.plus(KEPT / 2);
    store.sweep(now, |who| &*who.callee.name == "alive");
    let left = names(&store);
    assert!(!left.contains("gone") && ["held", "alive", "back"].iter().all(|name| left.contains(name)), "{left}");
    drop(held);
}
