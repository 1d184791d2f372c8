//! The stand-in for kube-proxy: a second instance of the kernel half, above the nodes' cgroups, that places every
//! *connection* on one endpoint. It serves pods outside the mesh, and everybody while an agent is dead.

use super::Layout;
use super::state::State;
use anyhow::{Context, Result};
use mesh_agent::addr::EndpointAddr;
use mesh_agent::kernel::{Config, Kernel, Mode, SkMsg, Update, bpffs};
use mesh_agent::snapshot::{
    Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, PortKey, Protocol, Service, ServiceName, ServicePort,
    Snapshot,
};
use std::sync::Arc;

/// Owned by the lab; its pins go with the lab's.
pub(super) struct KubeProxy {
    kernel: Kernel,
    known: Vec<ServiceName>,
}

impl KubeProxy {
    pub(super) fn start(layout: &Layout) -> Result<Self> {
        let root = layout.cgroup()?;
        // Nobody is ever in it: kube-proxy has no sockets of its own to leave alone.
        let nobody = root.child("kube-proxy")?;
        let pins = bpffs().context("no bpffs")?.join("undermesh").join(layout.pin_name("kube-proxy"));
        let mut config = Config::new(root.path().to_owned(), nobody.path().to_owned(), pins);
        config.mode = Mode::SocketLb;
        config.sk_msg = SkMsg::Off;
        let kernel = Kernel::start(config).context("cannot start the kube-proxy stand-in")?;
        Ok(Self { kernel, known: Vec::new() })
    }

    pub(super) fn sync(&mut self, state: &State) {
        let mut snapshot = Snapshot::default();
        for service in state.services.values() {
            snapshot.insert_service(Arc::new(compile(service, state)));
        }
        let mut services: Vec<_> = snapshot.services().map(|service| service.name.clone()).collect();
        let now = services.clone();
        services.extend(self.known.drain(..).filter(|name| !now.contains(name)));
        self.known = now;
        let report = self.kernel.apply(&Update { services: &services, ..Update::of(&snapshot) });
        for problem in report.problems {
            tracing::warn!("kube-proxy stand-in: {problem}");
        }
    }
}

fn compile(service: &super::ServiceState, state: &State) -> Service {
    let name = ServiceName::new(&service.service.namespace, &service.service.name);
    let ports = service.service.ports.iter().filter(|port| port.tcp).map(|port| {
        let key = PortKey::new(name.clone(), port.port);
        let endpoints = state.ready_pods(&service.service).flat_map(|pod| {
            let number = match &port.target {
                crate::manifest::TargetPort::Number(number) => Some(*number),
                crate::manifest::TargetPort::Name(name) => {
                    pod.ports.iter().find(|(port, _)| port == name).map(|(_, number)| *number)
                }
            };
            number.into_iter().flat_map(|number| pod.ips.both().map(|ip| EndpointAddr::new((ip, number).into())))
        });
        let endpoints = endpoints.map(|addr| Endpoint {
            addr,
            weight: 1,
            health: EndpointHealth::Ready,
            workload: None,
            locality: Locality::default(),
        });
        Arc::new(ServicePort {
            key,
            port: port.port,
            name: port.name.as_str().into(),
            protocol: Protocol::Tcp,
            lb: LbPolicy::Default,
            endpoints: Arc::new(EndpointSet { endpoints: endpoints.collect() }),
        })
    });
    let (host, ports) = (name.host("cluster.local"), ports.collect());
    Service { vips: service.cluster_ips(), headless: service.service.headless, ports, ..Service::new(name, &host) }
}
