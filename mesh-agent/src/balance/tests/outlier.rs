use super::*;
use crate::addr::EndpointAddr;
use crate::snapshot::{ClusterKey, PortKey, ServiceName};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Nanos {
    Nanos(seconds * SECOND)
}

fn detector(hosts: u8, settings: OutlierDetection) -> Detector {
    let key = ClusterKey::from(PortKey::new(ServiceName::new("a", "b"), 80));
    let addr = |last| EndpointAddr::new(([10, 0, 0, last], 80).into());
    let hosts = (0..hosts).map(|last| Arc::new(EndpointState::new(key.clone(), addr(last), None, at(0)))).collect();
    Detector::new(Arc::new(settings), Arc::new(Rounds::new(at(0))), hosts)
}

/// Every endpoint may be ejected.
fn all() -> OutlierDetection {
    OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() }
}

fn status(status: u16) -> Ended {
    Ended::Response { status, grpc_status: None }
}

impl Detector {
    fn script(&self, host: usize, ended: &[Ended], now: Nanos) -> bool {
        ended.iter().for_each(|ended| self.report(&self.hosts[host], *ended, now));
        self.hosts[host].is_ejected()
    }
}

#[test]
fn the_fifth_error_in_a_row_ejects() {
    let detector = detector(2, all());
    assert!(!detector.script(0, &[status(500); 4], at(1)));
    assert!(!detector.script(0, &[status(404)], at(1)), "anything below 500 is a success");
    assert!(!detector.script(0, &[status(503); 4], at(1)));
    assert!(detector.script(0, &[status(500)], at(1)));
    assert!(!detector.hosts[1].is_ejected());
}

#[test]
fn local_failures_count_as_errors() {
    for ended in [Ended::ConnectFailure, Ended::Reset, Ended::Timeout] {
        assert!(detector(1, all()).script(0, &[ended; 5], at(1)), "{ended:?}");
    }
    let mixed = [Ended::ConnectFailure, status(500), Ended::Timeout, Ended::Reset, status(502)];
    assert!(detector(1, all()).script(0, &mixed, at(1)));
    let opaque = [Ended::ConnectFailure, Ended::ConnectFailure, Ended::Connected, Ended::ConnectFailure];
    assert!(!detector(1, OutlierDetection { consecutive_5xx: 3, ..all() }).script(0, &opaque, at(1)));
}

#[test]
fn gateway_errors_have_a_counter_of_their_own() {
    let settings = || OutlierDetection { consecutive_5xx: 0, consecutive_gateway: 3, ..all() };
    assert!(!detector(1, settings()).script(0, &[status(500); 50], at(1)), "0 is off");
    assert!(!detector(1, settings()).script(0, &[status(502), status(503), status(500), status(504)], at(1)));
    assert!(detector(1, settings()).script(0, &[status(502), status(503), status(504)], at(1)));
    assert!(detector(1, settings()).script(0, &[Ended::ConnectFailure, Ended::Timeout, status(503)], at(1)));
}

#[test]
fn split_counts_local_failures_apart() {
    let settings = || OutlierDetection { split_local_origin: true, consecutive_local_origin: 3, ..all() };
    assert!(detector(1, settings()).script(0, &[Ended::ConnectFailure; 3], at(1)));
    let mixed = [Ended::ConnectFailure, Ended::Timeout, status(500), Ended::Reset, Ended::ConnectFailure];
    assert!(!detector(1, settings()).script(0, &mixed, at(1)), "a response shows that the endpoint was reached");
    assert!(!detector(1, settings()).script(0, &[status(500); 4], at(1)));
    assert!(detector(1, settings()).script(0, &[status(500); 5], at(1)));
}

#[test]
fn grpc_statuses_of_heads_are_mapped() {
    let grpc = |code| Ended::Response { status: 200, grpc_status: Some(code) };
    assert!(detector(1, all()).script(0, &[grpc(14); 5], at(1)));
    assert!(detector(1, all()).script(0, &[grpc(4); 5], at(1)));
    assert!(!detector(1, all()).script(0, &[grpc(5); 50], at(1)), "NOT_FOUND is 404");
    assert!(!detector(1, all()).script(0, &[grpc(1); 50], at(1)), "CANCELLED is 499");
}

#[test]
fn listed_statuses_replace_5xx() {
    let settings = || OutlierDetection { http_errors: Some(vec![429, 503]), ..all() };
    assert!(detector(1, settings()).script(0, &[status(429); 5], at(1)));
    assert!(!detector(1, settings()).script(0, &[status(500); 50], at(1)));
    assert!(detector(1, settings()).script(0, &[status(503); 5], at(1)));
}

#[test]
fn only_a_share_may_be_ejected() {
    let default = || OutlierDetection::default();
    assert!(!detector(9, default()).script(0, &[status(500); 50], at(1)), "10 % of nine is less than one");
    let ten = detector(10, default());
    assert!(ten.script(0, &[status(500); 5], at(1)));
    assert!(!ten.script(1, &[status(500); 50], at(1)));
    let half = detector(4, OutlierDetection { max_ejection_percent: 50, ..all() });
    let ejected = (0..4).filter(|host| half.script(*host, &[status(500); 5], at(1))).count();
    assert_eq!(ejected, 2);
}

#[test]
fn an_ejection_ends_with_the_round_that_finds_it_over() {
    let detector = detector(1, all());
    detector.tick(at(14));
    assert!(detector.script(0, &[status(500); 5], at(14)));
    // Until 44 s; rounds at 20, 30, 40, 50.
    detector.tick(at(49));
    assert!(detector.hosts[0].is_ejected());
    assert_eq!(detector.hosts[0].monitor.until(), Some(at(44)));
    let version = detector.version();
    detector.tick(at(50));
    assert!(!detector.hosts[0].is_ejected());
    assert_eq!(detector.version(), version + 1);
}

#[test]
fn each_ejection_is_longer_and_health_shortens_the_next() {
    let detector = detector(1, all());
    let length = |now: u64| {
        assert!(detector.script(0, &[status(500); 5], at(now)));
        detector.hosts[0].monitor.until().unwrap().since(at(now)).as_secs()
    };
    assert_eq!(length(0), 30);
    assert_eq!(length(31), 60, "back at 30 s");
    assert_eq!(length(101), 90, "back at 100 s");
    // Until 191 s, back at 200 s with multiplier 3; rounds at 210 and 220 take two.
    assert_eq!(length(225), 60);
    assert_eq!(detector.hosts[0].monitor.ejections(), 4);
}

#[test]
fn rounds_that_nobody_saw_count_all_the_same() {
    let (seen, unseen) = (detector(1, all()), detector(1, all()));
    for d in [&seen, &unseen] {
        assert!(d.script(0, &[status(500); 5], at(3)));
    }
    (4..=300).for_each(|second| seen.tick(at(second)));
    unseen.tick(at(300));
    for d in [&seen, &unseen] {
        assert!(!d.hosts[0].is_ejected());
        assert!(d.script(0, &[status(500); 5], at(301)));
        assert_eq!(d.hosts[0].monitor.until(), Some(at(331)), "multiplier is 1 again");
    }
}

#[test]
fn ejections_have_a_longest_time() {
    let settings = OutlierDetection {
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(60),
        interval: Duration::from_secs(1),
        ..all()
    };
    let detector = detector(1, settings);
    let mut now = 0;
    let mut lengths = Vec::new();
    for _ in 0..5 {
        assert!(detector.script(0, &[status(500); 5], at(now)));
        let until = detector.hosts[0].monitor.until().unwrap();
        lengths.push(until.since(at(now)).as_secs());
        now = until.0 / SECOND;
        detector.tick(at(now));
        assert!(!detector.hosts[0].is_ejected());
    }
    assert_eq!(lengths, [30, 60, 60, 60, 60]);
}

#[test]
fn workers_at_once_eject_no_more_than_allowed() {
    let detector = detector(20, OutlierDetection { max_ejection_percent: 30, ..all() });
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let detector = &detector;
            scope.spawn(move || {
                for host in (0..20).cycle().skip(worker * 5).take(40) {
                    detector.script(host, &[status(500); 5], at(1));
                }
            });
        }
    });
    assert_eq!(detector.hosts.iter().filter(|host| host.is_ejected()).count(), 6);
}
