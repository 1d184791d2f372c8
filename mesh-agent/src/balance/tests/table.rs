//! Expected tables are those of Envoy's own unit tests for the same hosts (`ring_hash_lb_test.cc` and
//! `maglev_lb_test.cc`, "Basic" and "Weighted"); larger ones were computed apart, from the published algorithms.

use super::*;

/// `127.0.0.1:90` to `:95`.
fn hosts(weights: &[u32]) -> Vec<(EndpointAddr, u32)> {
    let addr = |port| EndpointAddr::new(([127, 0, 0, 1], port).into());
    weights.iter().zip(90..).map(|(weight, port)| (addr(port), *weight)).collect()
}

const RING: HashTable = HashTable::Ring { minimum_size: 12 };

fn maglev_of(weights: &[u32], table_size: u64) -> Table {
    Table::new(HashTable::Maglev { table_size }, &hosts(weights))
}

#[test]
fn ring_is_envoys() {
    let Table::Ring(ring) = Table::new(RING, &hosts(&[1; 6])) else { panic!("a ring") };
    let expected = [
        (833_437_586_790_550_860, 4),
        (928_266_305_478_181_108, 2),
        (1_033_482_794_131_418_490, 0),
        (3_551_244_743_356_806_947, 5),
        (3_851_675_632_748_031_481, 3),
        (5_583_722_120_771_150_861, 1),
        (6_311_230_543_546_372_928, 1),
        (7_700_377_290_971_790_572, 3),
        (13_144_177_310_400_110_813, 5),
        (13_444_792_449_719_432_967, 2),
        (15_516_499_411_664_133_160, 4),
        (16_117_243_373_044_804_889, 0),
    ];
    assert_eq!(ring, expected);
}

#[test]
fn a_ring_finds_the_next_place_and_goes_round() {
    let table = Table::new(RING, &hosts(&[1; 6]));
    let first = |hash| table.hosts(hash).next();
    assert_eq!(first(0), Some(4));
    assert_eq!(first(3_551_244_743_356_806_947), Some(5), "the place itself belongs to it");
    assert_eq!(first(3_551_244_743_356_806_948), Some(3));
    assert_eq!(first(u64::MAX), Some(4), "round the end");
    let order: Vec<_> = table.hosts(5_583_722_120_771_150_861).take(8).collect();
    assert_eq!(order, [1, 1, 3, 5, 2, 4, 0, 4]);
}

#[test]
fn rings_have_whole_places_for_the_lightest() {
    let places = |weights: &[u32], minimum_size| {
        let Table::Ring(ring) = Table::new(HashTable::Ring { minimum_size }, &hosts(weights)) else { panic!("a ring") };
        assert!(ring.is_sorted_by_key(|(hash, _)| *hash));
        (0..weights.len()).map(|host| ring.iter().filter(|(_, h)| *h as usize == host).count()).collect::<Vec<_>>()
    };
    assert_eq!(places(&[1, 1, 1], 1024), [342, 342, 342]);
    assert_eq!(places(&[1, 3], 1024), [256, 768]);
    assert_eq!(places(&[1, 2, 3], 1), [1, 2, 3], "at least one place each");
}

#[test]
fn maglev_is_envoys() {
    let slots = |weights: &[u32], size| match maglev_of(weights, size) {
        Table::Maglev(slots) => slots,
        Table::Ring(_) => panic!("slots"),
    };
    assert_eq!(slots(&[1; 6], 7), [2, 4, 0, 1, 5, 0, 3]);
    assert_eq!(slots(&[1, 2], 17), [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]);
    let large = slots(&[1; 6], 65537);
    assert_eq!([large[0], large[1], large[1000], large[65536]], [5, 4, 2, 1]);
    assert!((0..6).all(|host| (10922..=10923).contains(&large.iter().filter(|h| **h == host).count())));
}

#[test]
fn maglev_steps_on_by_changing_the_hash() {
    let table = maglev_of(&[1; 6], 7);
    let order: Vec<_> = table.hosts(9).take(3).collect();
    // Slots 9 mod 7, then (9 xor (2⁶⁴ − k)) mod 7 for k = 1, 2.
    let slot = |hash: u64| [2, 4, 0, 1, 5, 0, 3][(hash % 7) as usize];
    assert_eq!(order, [slot(9), slot(9 ^ u64::MAX), slot(9 ^ (u64::MAX - 1))]);
}

#[test]
fn odd_configurations_end() {
    for (weights, kind) in [
        (&[][..], RING),
        (&[], HashTable::Maglev { table_size: 7 }),
        (&[1], HashTable::Maglev { table_size: 0 }),
        // Not prime: the steps of no host need meet all slots.
        (&[1, 1, 1], HashTable::Maglev { table_size: 12 }),
        (&[1, 1_000_000], HashTable::Maglev { table_size: 64 }),
        (&[1], HashTable::Ring { minimum_size: 0 }),
    ] {
        let table = Table::new(kind, &hosts(weights));
        assert_eq!(table.hosts(3).next().is_some(), !weights.is_empty(), "{kind:?}");
        assert!(table.hosts(3).all(|host| host < weights.len()), "{kind:?}");
    }
}

#[test]
fn a_lost_host_moves_few_other_keys() {
    let (all, fewer) = (hosts(&[1; 6]), hosts(&[1; 5]));
    for kind in [HashTable::Ring { minimum_size: 1024 }, HashTable::Maglev { table_size: 65537 }] {
        let (before, after) = (Table::new(kind, &all), Table::new(kind, &fewer));
        let keys = (0..10_000_u64).map(|key| xxh64(&key.to_le_bytes(), 0));
        let kept = keys.filter_map(|key| before.hosts(key).next().filter(|host| *host != 5).map(|host| (key, host)));
        let (mut moved, mut count) = (0, 0);
        for (key, host) in kept {
            count += 1;
            moved += usize::from(after.hosts(key).next() != Some(host));
        }
        // Of a ring, 34 of 205 places of each host are new.
        assert!(moved * 5 < count, "{kind:?}: {moved} of {count}");
    }
}
