//! Pure: what a service port wants from the kernel.

use super::super::Mode;
use super::policy::wants_agent;
use super::reach::Every;
use crate::snapshot::{EndpointHealth, EndpointSet, PortKey, RULED_PORT, Service, ServiceName, ServicePort, Snapshot};
use mesh_common::Addr;
use mesh_common::maps::FailurePolicy;
use std::collections::BTreeSet;

/// What the connect hooks do with one service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PortPlan {
    pub(super) key: PortKey,
    /// Destinations that mean this port.
    pub(super) addrs: BTreeSet<Addr>,
    pub(super) want: Want,
    /// Redirection is worth while: a declared flow-controlled protocol.
    pub(super) sk_msg: bool,
    pub(super) failure: FailurePolicy,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Agent,
    /// Endpoints with weights, by family: a socket cannot be sent to the other family.
    Endpoint {
        v4: Vec<(Addr, u32)>,
        v6: Vec<(Addr, u32)>,
    },
}

/// What plans depend on beside the Service itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) every: &'a Every,
    pub(super) mode: Mode,
    pub(super) failure: FailurePolicy,
}

/// Plans every port of a service that the kernel has to know.
pub(super) fn plan(service: &Service, terms: &Terms<'_>) -> Vec<PortPlan> {
    service.ports.iter().filter_map(|port| plan_port(service, port, terms)).collect()
}

pub(super) fn plan_port(service: &Service, port: &ServicePort, terms: &Terms<'_>) -> Option<PortPlan> {
    let opaque = port.protocol.is_opaque() && !wants_agent(terms.snapshot, service, port, terms.every);
    let by_kernel = opaque || terms.mode == Mode::SocketLb;
    let mut addrs: BTreeSet<Addr> = if service.headless {
        if by_kernel {
            // The app chose the pod itself and there is no L7 work: nothing to do.
            return None;
        }
        // Dialled by pod address (headless DNS): to the agent, where the original destination decides.
        port.endpoints.endpoints.iter().map(|endpoint| Addr::from(endpoint.addr.addr())).collect()
    } else {
        service.vips.iter().map(|vip| Addr::from(std::net::SocketAddr::new(*vip, port.port))).collect()
    };
    if service.by_host && !by_kernel {
        // Its clients' connections are made for addresses that only DNS knows: all of the port are looked at.
        addrs.insert(Addr::any(port.port));
    }
    let want = if by_kernel { endpoints(&port.endpoints) } else { Want::Agent };
    let sk_msg = !by_kernel && port.protocol.is_http2() && !service.by_host;
    Some(PortPlan { key: port.key.clone(), addrs, want, sk_msg, failure: terms.failure })
}

/// Hosts that only VirtualServices know, as if they were a Service; it has no namespace and a name that no Service has.
pub(super) fn ruled() -> ServiceName {
    ServiceName::new("", "hosts of VirtualServices")
}

/// Their clients' connections are made for addresses that only DNS knows: all of the port are looked at.
pub(super) fn plan_ruled(terms: &Terms<'_>) -> Option<PortPlan> {
    let wanted = terms.mode == Mode::Mesh && terms.snapshot.serves_ruled_hosts();
    wanted.then(|| PortPlan {
        key: PortKey::new(ruled(), RULED_PORT),
        addrs: [Addr::any(RULED_PORT)].into(),
        want: Want::Agent,
        sk_msg: false,
        failure: terms.failure,
    })
}

/// Ready endpoints; draining ones only when none is ready (KEP-1669).
fn endpoints(set: &EndpointSet) -> Want {
    let of = |health| set.endpoints.iter().filter(move |endpoint| endpoint.health == health);
    let health =
        if of(EndpointHealth::Ready).next().is_some() { EndpointHealth::Ready } else { EndpointHealth::Draining };
    let (v4, v6) = of(health)
        .map(|endpoint| (Addr::from(endpoint.addr.addr()), endpoint.weight))
        .partition(|(addr, _): &(Addr, u32)| addr.is_v4());
    Want::Endpoint { v4, v6 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::addr::EndpointAddr;
    use crate::snapshot::{Endpoint, LbPolicy, Locality, Protocol};
    use std::sync::Arc;

    pub(in super::super) fn service(
        vips: &[&str],
        protocol: Protocol,
        endpoints: &[(&str, u32, EndpointHealth)],
    ) -> Service {
        let name = ServiceName::new("shop", "db");
        let key = PortKey::new(name.clone(), 5432);
        let endpoints = endpoints
            .iter()
            .map(|(addr, weight, health)| Endpoint {
                addr: EndpointAddr::new(addr.parse().unwrap()),
                weight: *weight,
                health: *health,
                workload: None,
                locality: Locality::default(),
            })
            .collect();
        let host = name.host("cluster.local");
        Service {
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            headless: vips.is_empty(),
            ports: vec![Arc::new(ServicePort {
                key,
                port: 5432,
                name: "".into(),
                protocol,
                lb: LbPolicy::Default,
                endpoints: Arc::new(EndpointSet { endpoints }),
            })],
            ..Service::new(name, &host)
        }
    }

    fn addr(text: &str) -> Addr {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    fn planned(service: &Service, mode: Mode) -> Vec<PortPlan> {
        let (snapshot, every) = Default::default();
        plan(service, &Terms { snapshot: &snapshot, every: &every, mode, failure: FailurePolicy::Open })
    }

    #[test]
    fn opaque_goes_to_endpoints_by_family_and_health() {
        use EndpointHealth::{Draining, NotReady, Ready};
        let all = [
            ("10.1.0.1:5", 1, Ready),
            ("10.1.0.2:5", 3, Ready),
            ("[fd00::1]:5", 1, Ready),
            ("10.1.0.3:5", 1, Draining),
            ("10.1.0.4:5", 1, NotReady),
        ];
        let plans = planned(&service(&["10.96.0.1", "fd96::1"], Protocol::Tcp, &all), Mode::Mesh);
        assert_eq!(plans.len(), 1);
        assert_eq!(plans[0].addrs, [addr("10.96.0.1:5432"), addr("[fd96::1]:5432")].into());
        assert_eq!(
            plans[0].want,
            Want::Endpoint {
                v4: vec![(addr("10.1.0.1:5"), 1), (addr("10.1.0.2:5"), 3)],
                v6: vec![(addr("[fd00::1]:5"), 1)]
            }
        );
        let none_ready = planned(&service(&["10.96.0.1"], Protocol::Tcp, &all[3..]), Mode::Mesh);
        assert_eq!(none_ready[0].want, Want::Endpoint { v4: vec![(addr("10.1.0.3:5"), 1)], v6: vec![] });
    }

    #[test]
    fn l7_goes_to_the_agent_and_only_declared_http2_is_redirected() {
        for (protocol, sk_msg) in
            [(Protocol::Grpc, true), (Protocol::Http2, true), (Protocol::Http, false), (Protocol::Detect, false)]
        {
            let plans = planned(&service(&["10.96.0.1"], protocol, &[]), Mode::Mesh);
            assert_eq!((&plans[0].want, plans[0].sk_msg), (&Want::Agent, sk_msg), "{protocol:?}");
            let lb = planned(&service(&["10.96.0.1"], protocol, &[]), Mode::SocketLb);
            assert_eq!((&lb[0].want, lb[0].sk_msg), (&Want::Endpoint { v4: vec![], v6: vec![] }, false));
        }
    }

    #[test]
    fn headless_is_known_by_pod_address_where_there_is_l7_work() {
        let endpoints = [("10.1.0.1:8080", 1, EndpointHealth::Ready), ("10.1.0.2:8080", 1, EndpointHealth::NotReady)];
        let plans = planned(&service(&[], Protocol::Grpc, &endpoints), Mode::Mesh);
        assert_eq!(plans[0].addrs, [addr("10.1.0.1:8080"), addr("10.1.0.2:8080")].into());
        assert_eq!(plans[0].want, Want::Agent);
        assert!(planned(&service(&[], Protocol::Tcp, &endpoints), Mode::Mesh).is_empty());
        assert!(planned(&service(&[], Protocol::Grpc, &endpoints), Mode::SocketLb).is_empty());
    }
}
