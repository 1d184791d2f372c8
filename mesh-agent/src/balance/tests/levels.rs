use super::*;
use crate::addr::EndpointAddr;
use crate::snapshot::{PortKey, ServiceName};
use crate::time::Nanos;

fn level(priority: u8, weight: u32, healthy: u32, total: u32) -> Health {
    Health { priority, weight, healthy, total }
}

/// (healthy of 100) for each priority → load of each.
fn loads(healthy: &[u32]) -> Vec<u64> {
    let levels: Vec<_> = healthy.iter().zip(0..).map(|(h, priority)| level(priority, 1, *h, 100)).collect();
    shares(&levels, Priorities::default(), false).to_vec()
}

/// The tables of Envoy's documentation, "Priority levels".
#[test]
fn load_spills_over_as_envoy_documents() {
    for (healthy, expected) in [
        (&[100, 100][..], &[100, 0][..]),
        (&[72, 100], &[100, 0]),
        (&[71, 100], &[99, 1]),
        (&[50, 100], &[70, 30]),
        (&[25, 100], &[35, 65]),
        (&[0, 100], &[0, 100]),
        (&[25, 25], &[50, 50]),
        (&[100, 100, 100], &[100, 0, 0]),
        (&[72, 72, 100], &[100, 0, 0]),
        (&[71, 71, 100], &[99, 1, 0]),
        (&[50, 60, 100], &[70, 30, 0]),
        (&[25, 50, 100], &[35, 65, 0]),
        (&[25, 25, 100], &[35, 35, 30]),
        (&[20, 20, 20], &[34, 33, 33]),
        (&[0, 0], &[0, 0]),
    ] {
        assert_eq!(loads(healthy), expected, "{healthy:?}");
    }
}

/// "Panic threshold" of the same documentation, with 50 %.
#[test]
fn panic_is_for_levels_that_together_cannot_serve_all() {
    for (healthy, expected) in [
        (&[72, 72][..], &[false, false][..]),
        (&[71, 71], &[false, false]),
        (&[50, 60], &[false, false]),
        (&[25, 100], &[false, false]),
        (&[25, 25], &[true, true]),
        (&[5, 65], &[true, false]),
        (&[0, 0], &[true, true]),
    ] {
        let levels: Vec<_> = healthy.iter().zip(0..).map(|(h, priority)| level(priority, 1, *h, 100)).collect();
        assert_eq!(&panics(&levels, 50)[..], expected, "{healthy:?}");
        assert!(!panics(&levels, 0).contains(&true), "0 switches it off");
    }
    let none = [level(0, 1, 0, 30), level(1, 1, 0, 10)];
    assert_eq!(&shares(&none, Priorities::default(), true)[..], [30, 10], "all by number");
}

#[test]
fn excluded_priorities_get_nothing_while_there_are_others() {
    let levels = [level(0, 1, 10, 10), level(1, 1, 5, 10), level(2, 1, 10, 10)];
    let of = |excluded: &[u8]| {
        let mut exclude = Priorities::default();
        excluded.iter().for_each(|priority| exclude.insert(*priority));
        shares(&levels, exclude, false).to_vec()
    };
    assert_eq!(of(&[0]), [0, 70, 30]);
    assert_eq!(of(&[0, 2]), [0, 100, 0]);
    assert_eq!(of(&[0, 1, 2]), [100, 0, 0], "none is left: as if none were excluded");
}

#[test]
fn localities_of_one_priority_share_by_weight_and_health() {
    let of = |levels: &[Health]| shares(levels, Priorities::default(), false).to_vec();
    assert_eq!(of(&[level(0, 80, 3, 3), level(0, 20, 1, 1)]), [8000, 2000]);
    // 1 of 2 healthy is an availability of 70 %.
    assert_eq!(of(&[level(0, 80, 1, 2), level(0, 20, 1, 1)]), [5600, 2000]);
    assert_eq!(of(&[level(0, 80, 0, 2), level(0, 20, 1, 1)]), [0, 2000]);
}

#[test]
fn tickets_find_their_level() {
    let key: crate::snapshot::ClusterKey = PortKey::new(ServiceName::new("a", "b"), 80).into();
    let level = |priority: u8| {
        let addr = EndpointAddr::new(([10, 0, 0, priority], 80).into());
        let state = Arc::new(EndpointState::new(key.clone(), addr, None, Nanos(0)));
        Arc::new(Level { priority: 0, weight: u32::from(priority), hosts: Candidates::new(vec![state], vec![1]) })
    };
    let view = View::whole(&[level(1), level(3)]);
    let counts = (0..400).fold([0; 2], |mut counts, ticket| {
        counts[view
            .level(Priorities::default(), |n| {
                assert_eq!(n, 400);
                ticket
            })
            .unwrap()] += 1;
        counts
    });
    assert_eq!(counts, [100, 300]);
    assert_eq!(View::whole(&[]).level(Priorities::default(), |_| 0), None);
}
