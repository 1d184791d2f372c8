//! What the connect hooks decide, as one function over facts.
//!
//! The kernel answers the facts from maps and helpers, the tests from a struct; facts that cost something (the look-up
//! of the listener) are asked only when they matter. Invariants: an unenrolled caller and the agent itself are never
//! touched; a connection goes to the agent only while the agent is alive; nothing hangs.

use crate::addr::Addr;
use crate::maps::{FailurePolicy, POD_CLOSED, POD_SK_MSG, POD_UNDECLARED, Pod, TARGET_SK_MSG, Target, Verdict};
use crate::reason::Reason;

/// What the hook can find out about a `connect()`.
pub trait Facts {
    /// The socket belongs to the agent.
    fn own_socket(&self) -> bool;
    /// The caller's network namespace, if enrolled.
    fn pod(&self) -> Option<Pod>;
    /// Configuration of a destination: the exact address and port, else the longest prefix.
    fn target(&self, dst: &Addr) -> Option<Target>;
    /// Configuration of a port on addresses that nobody declared ([`Addr::any`]).
    fn port_target(&self, port: u16) -> Option<Target>;
    /// The last heartbeat is young enough.
    fn beat_fresh(&self) -> bool;
    /// The in-pod listener at this address exists now.
    fn listening(&self, agent: &Addr) -> bool;
    /// Fewer flows than the limit.
    fn flow_room(&self) -> bool;
    /// An endpoint of the set, weighted; `None` if the set is gone.
    fn endpoint(&self, set: u32, slots: u32) -> Option<Addr>;
}

/// What to do with the `connect()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Pass(Reason),
    Refuse(Reason, Place),
    /// Rewrite the destination to `to`.
    Rewrite(Reason, Place, Addr),
}

/// Who called and what was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub workload: u32,
    pub service: u32,
    pub failure: u8,
    /// The flow may be redirected (sk_msg), by the port's or the workload's wish.
    pub sk_msg: bool,
}

/// Decides on a TCP `connect()` to `dst`.
#[inline(always)]
pub fn decide(facts: &impl Facts, dst: &Addr) -> Decision {
    if facts.own_socket() {
        return Decision::Pass(Reason::OwnSocket);
    }
    let Some(pod) = facts.pod() else { return Decision::Pass(Reason::NotEnrolled) };
    let target = match facts.target(dst) {
        Some(target) => target,
        None => match undeclared(facts, &pod, dst) {
            Some(target) => target,
            None => return Decision::Pass(Reason::NoTarget),
        },
    };
    let place = place(&pod, &target);
    match Verdict::from_byte(target.verdict) {
        Verdict::Pass => Decision::Pass(Reason::PassedByRule),
        Verdict::Deny => Decision::Refuse(Reason::DeniedByRule, place),
        Verdict::Agent => to_agent(facts, dst, place),
        Verdict::Endpoint => to_endpoint(facts, dst, &target, place),
    }
}

/// An address that nobody declared: to the agent where the pod may reach only what is declared, or where some host is
/// known by its name alone and has this port.
#[inline(always)]
fn undeclared(facts: &impl Facts, pod: &Pod, dst: &Addr) -> Option<Target> {
    if dst.is_local() {
        return None;
    }
    if pod.flags & POD_UNDECLARED == 0 {
        return facts.port_target(dst.port);
    }
    let failure = if pod.flags & POD_CLOSED != 0 { FailurePolicy::Closed } else { FailurePolicy::Open };
    Some(Target {
        service: 0,
        set: 0,
        slots: 0,
        verdict: Verdict::Agent as u8,
        failure: failure as u8,
        flags: 0,
        pad: 0,
    })
}

#[inline(always)]
fn place(pod: &Pod, target: &Target) -> Place {
    Place {
        workload: pod.workload,
        service: target.service,
        failure: target.failure,
        sk_msg: target.flags & TARGET_SK_MSG != 0 || pod.flags & POD_SK_MSG != 0,
    }
}

/// The agent is checked before anything is rewritten: a killed one has no listener (noticed at once), a hung one no
/// fresh beat, a full one no room for another flow.
#[inline(always)]
fn to_agent(facts: &impl Facts, dst: &Addr, place: Place) -> Decision {
    let agent = dst.agent();
    if !facts.beat_fresh() {
        return failed(Reason::BeatStaleOpen, Reason::BeatStaleClosed, place);
    }
    if !facts.flow_room() {
        return failed(Reason::FlowsFullOpen, Reason::FlowsFullClosed, place);
    }
    if !facts.listening(&agent) {
        return failed(Reason::ListenerGoneOpen, Reason::ListenerGoneClosed, place);
    }
    Decision::Rewrite(Reason::ToAgent, place, agent)
}

/// A set is replaced under a new id; whoever read the old id just before reads the entry once more.
#[inline(always)]
fn to_endpoint(facts: &impl Facts, dst: &Addr, target: &Target, place: Place) -> Decision {
    if target.slots == 0 {
        return Decision::Refuse(Reason::NoEndpoint, place);
    }
    if let Some(to) = facts.endpoint(target.set, target.slots) {
        return Decision::Rewrite(Reason::ToEndpoint, place, to);
    }
    if let Some(fresh) = facts.target(dst)
        && fresh.slots != 0
        && let Some(to) = facts.endpoint(fresh.set, fresh.slots)
    {
        return Decision::Rewrite(Reason::ToEndpoint, place, to);
    }
    Decision::Refuse(Reason::SetGone, place)
}

/// The failure policy of a destination, with the reason for either way.
#[inline(always)]
pub const fn failed(open: Reason, closed: Reason, place: Place) -> Decision {
    if place.failure == FailurePolicy::Closed as u8 { Decision::Refuse(closed, place) } else { Decision::Pass(open) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use core::net::SocketAddr;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct World {
        own: bool,
        pod: Option<Pod>,
        target: Option<Target>,
        port_target: Option<Target>,
        beat: bool,
        listening: bool,
        room: bool,
        /// Sets that exist.
        sets: std::vec::Vec<u32>,
        /// The target's set on the second look.
        second_set: u32,
        looks: Cell<u32>,
    }

    impl Facts for World {
        fn own_socket(&self) -> bool {
            self.own
        }
        fn pod(&self) -> Option<Pod> {
            self.pod
        }
        fn target(&self, _: &Addr) -> Option<Target> {
            let looks = self.looks.get();
            self.looks.set(looks + 1);
            self.target.map(|t| if looks == 0 { t } else { Target { set: self.second_set, ..t } })
        }
        fn port_target(&self, _: u16) -> Option<Target> {
            self.port_target
        }
        fn beat_fresh(&self) -> bool {
            self.beat
        }
        fn listening(&self, agent: &Addr) -> bool {
            assert_eq!(agent.port, crate::AGENT_PORT);
            self.listening
        }
        fn flow_room(&self) -> bool {
            self.room
        }
        fn endpoint(&self, set: u32, slots: u32) -> Option<Addr> {
            assert_ne!(slots, 0);
            self.sets.contains(&set).then(endpoint)
        }
    }

    fn addr(text: &str) -> Addr {
        text.parse::<SocketAddr>().unwrap().into()
    }

    fn endpoint() -> Addr {
        addr("10.1.0.7:8080")
    }

    fn world(verdict: Verdict, failure: FailurePolicy) -> World {
        World {
            own: false,
            pod: Some(Pod { workload: 3, flags: 0 }),
            target: Some(Target {
                service: 9,
                set: 5,
                slots: 2,
                verdict: verdict as u8,
                failure: failure as u8,
                flags: 0,
                pad: 0,
            }),
            port_target: None,
            beat: true,
            listening: true,
            room: true,
            sets: std::vec![5],
            second_set: 5,
            looks: Cell::new(0),
        }
    }

    fn open() -> World {
        world(Verdict::Agent, FailurePolicy::Open)
    }

    const VIP: &str = "10.96.0.10:80";

    #[track_caller]
    fn check(world: &World, wanted: Decision) {
        assert_eq!(decide(world, &addr(VIP)), wanted);
    }

    fn there(failure: FailurePolicy, sk_msg: bool) -> Place {
        Place { workload: 3, service: 9, failure: failure as u8, sk_msg }
    }

    #[test]
    fn who_is_left_alone() {
        check(&World { own: true, ..open() }, Decision::Pass(Reason::OwnSocket));
        check(&World { pod: None, ..open() }, Decision::Pass(Reason::NotEnrolled));
        check(&World { target: None, ..open() }, Decision::Pass(Reason::NoTarget));
        check(&world(Verdict::Pass, FailurePolicy::Closed), Decision::Pass(Reason::PassedByRule));
    }

    #[test]
    fn agent_of_the_family() {
        check(&open(), Decision::Rewrite(Reason::ToAgent, there(FailurePolicy::Open, false), addr("127.0.0.1:15001")));
        let v6 = decide(&open(), &addr("[fd00::1]:80"));
        assert_eq!(v6, Decision::Rewrite(Reason::ToAgent, there(FailurePolicy::Open, false), addr("[::1]:15001")));
    }

    #[test]
    fn addresses_that_nobody_declared() {
        let to = |world: &World, dst: &str| decide(world, &addr(dst));
        let agent = |service| {
            let place = Place { service, ..there(FailurePolicy::Open, false) };
            Decision::Rewrite(Reason::ToAgent, place, addr("127.0.0.1:15001"))
        };
        let unknown = World { target: None, ..open() };
        let pod = |flags| Some(Pod { workload: 3, flags });
        let restricted = World { pod: pod(POD_UNDECLARED), ..unknown.clone() };
        assert_eq!(to(&restricted, "203.0.113.1:443"), agent(0));
        let named = World { port_target: open().target, ..unknown };
        assert_eq!(to(&named, "203.0.113.1:443"), agent(9));
        let locals = ["127.0.0.1:80", "127.8.0.1:80", "169.254.169.254:80", "0.0.0.0:80", "[::1]:80", "[::]:80"];
        for local in locals.into_iter().chain(["[fe80::1]:80", "[febf::1]:80"]) {
            for world in [&restricted, &named] {
                assert_eq!(to(world, local), Decision::Pass(Reason::NoTarget), "{local}");
            }
        }
        assert!(matches!(to(&restricted, "[fec0::1]:80"), Decision::Rewrite(..)), "not link-local");
        let dead = World { beat: false, ..restricted };
        assert_eq!(to(&dead, VIP), Decision::Pass(Reason::BeatStaleOpen));
        let closed = World { pod: pod(POD_UNDECLARED | POD_CLOSED), ..dead };
        let place = Place { service: 0, ..there(FailurePolicy::Closed, false) };
        assert_eq!(to(&closed, VIP), Decision::Refuse(Reason::BeatStaleClosed, place));
    }

    #[test]
    fn redirection_by_port_or_by_workload() {
        let mut by_port = open();
        by_port.target.as_mut().unwrap().flags = TARGET_SK_MSG;
        let by_pod = World { pod: Some(Pod { workload: 3, flags: POD_SK_MSG }), ..open() };
        for world in [by_port, by_pod] {
            check(
                &world,
                Decision::Rewrite(Reason::ToAgent, there(FailurePolicy::Open, true), addr("127.0.0.1:15001")),
            );
        }
    }

    #[test]
    fn each_failure_follows_the_policy() {
        type Break = fn(&mut World);
        let cases: [(Break, Reason, Reason); 3] = [
            (|w| w.beat = false, Reason::BeatStaleOpen, Reason::BeatStaleClosed),
            (|w| w.listening = false, Reason::ListenerGoneOpen, Reason::ListenerGoneClosed),
            (|w| w.room = false, Reason::FlowsFullOpen, Reason::FlowsFullClosed),
        ];
        for (broken, pass, refuse) in cases {
            let mut open = open();
            broken(&mut open);
            check(&open, Decision::Pass(pass));
            let mut closed = world(Verdict::Agent, FailurePolicy::Closed);
            broken(&mut closed);
            check(&closed, Decision::Refuse(refuse, there(FailurePolicy::Closed, false)));
        }
    }

    #[test]
    fn endpoints() {
        let placed = |w: &World| decide(w, &addr(VIP));
        let place = there(FailurePolicy::Open, false);
        let base = world(Verdict::Endpoint, FailurePolicy::Open);
        assert_eq!(placed(&base), Decision::Rewrite(Reason::ToEndpoint, place, endpoint()));
        // A dead agent does not matter: no user space on this path.
        let dead = World { beat: false, listening: false, room: false, ..base.clone() };
        assert_eq!(placed(&dead), Decision::Rewrite(Reason::ToEndpoint, place, endpoint()));
        let swapped = World { sets: std::vec![6], second_set: 6, ..base.clone() };
        assert_eq!(placed(&swapped), Decision::Rewrite(Reason::ToEndpoint, place, endpoint()));
        let gone = World { sets: std::vec![], ..base.clone() };
        assert_eq!(placed(&gone), Decision::Refuse(Reason::SetGone, place));
        let mut empty = base;
        empty.target.as_mut().unwrap().slots = 0;
        assert_eq!(placed(&empty), Decision::Refuse(Reason::NoEndpoint, place));
    }

    proptest! {
        /// Never widens: a denied or fail-closed destination is not passed, whatever breaks; a dead agent gets nothing.
        #[test]
        fn invariants(verdict in 0_u8..=255, closed in any::<bool>(), own in any::<bool>(), enrolled in any::<bool>(),
                      known in any::<bool>(), beat in any::<bool>(), listening in any::<bool>(), room in any::<bool>(),
                      slots in 0_u32..4, sets in prop::collection::vec(4_u32..7, 0..3), second_set in 4_u32..7) {
            let failure = if closed { FailurePolicy::Closed } else { FailurePolicy::Open };
            let mut w = World { own, beat, listening, room, sets, second_set, ..world(Verdict::from_byte(verdict), failure) };
            if !enrolled { w.pod = None; }
            if !known { w.target = None; }
            if let Some(target) = &mut w.target { target.slots = slots; }
            let decision = decide(&w, &addr(VIP));
            let touched = !own && enrolled && known;
            match decision {
                Decision::Pass(_) if touched => {
                    prop_assert!(Verdict::from_byte(verdict) == Verdict::Pass || (Verdict::from_byte(verdict) == Verdict::Agent && !closed));
                }
                Decision::Rewrite(Reason::ToAgent, ..) => prop_assert!(touched && beat && listening && room),
                Decision::Rewrite(_, _, to) => prop_assert!(touched && to == endpoint()),
                Decision::Refuse(..) => prop_assert!(touched),
                Decision::Pass(_) => {}
            }
        }
    }
}
