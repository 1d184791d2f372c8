//! Links, addresses and routes of the lab's namespaces, by rtnetlink.

use super::{AddressPlan, Netns, PodIps};
use anyhow::{Context, Result, anyhow};
use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// The bridge every pod of a node hangs on.
const BRIDGE: &str = "pods0";

/// What a node's namespace is given.
pub struct Bridge {
    pub node: u8,
}

impl Bridge {
    /// Its own, for good: without one it takes the lowest of its ports' and changes it as pods come and go, and the others
    /// go on sending to the old one until their neighbour entries are proven wrong, some 10 s.
    fn mac(&self) -> Vec<u8> {
        vec![0x02, b'm', b'e', b's', b'h', self.node]
    }
}

/// The two ends of a veth pair: in the node (or fabric) and in the pod (or node).
pub struct Ports<'a> {
    pub outer: &'a str,
    pub inner: &'a str,
}

/// `lo` up: the agent's in-pod listeners are on it.
pub fn raise_loopback(ns: &Netns) -> Result<()> {
    session(ns, async |handle| up(handle, "lo").await)
}

/// A node: forwarding on, `lo` up, the bridge with the pods' gateway addresses.
pub fn set_up_node(ns: &Netns, bridge: &Bridge) -> Result<()> {
    let gateway = AddressPlan::gateway(bridge.node);
    ns.run(|| -> Result<()> {
        no_waiting_addresses()?;
        sysctl("net/ipv4/ip_forward", "1")?;
        sysctl("net/ipv6/conf/all/forwarding", "1")
    })??;
    session(ns, async |handle| {
        up(handle, "lo").await?;
        let made = LinkBridge::new(BRIDGE).address(bridge.mac()).build();
        handle.link().add(made).execute().await.context("cannot make the bridge")?;
        let at = index(handle, BRIDGE).await?;
        addresses(handle, at, gateway).await?;
        up(handle, BRIDGE).await
    })
}

/// A veth pair from the node's bridge into the pod.
pub fn join_pod(node: &Netns, pod: &Netns, ports: &Ports<'_>) -> Result<()> {
    join(node, BRIDGE, pod, ports)
}

/// The pod's side: `eth0` with its addresses, default routes through the node.
pub fn configure_pod(ns: &Netns, node: u8, inner: &str, ips: PodIps) -> Result<()> {
    session(ns, async |handle| {
        up(handle, "lo").await?;
        let at = index(handle, inner).await?;
        rename(handle, at, "eth0").await?;
        addresses(handle, at, ips).await?;
        up(handle, "eth0").await?;
        let gateway = AddressPlan::gateway(node);
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway.v4).build();
        handle.route().add(v4).execute().await.context("cannot add the IPv4 default route")?;
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway.v6).build();
        handle.route().add(v6).execute().await.context("cannot add the IPv6 default route")
    })
}

/// Joins nodes by a bridge in a namespace of its own, each with a route to the others' pods.
pub fn set_up_fabric(fabric: &Netns, nodes: &[(u8, Netns)]) -> Result<()> {
    session(fabric, async |handle| {
        up(handle, "lo").await?;
        handle.link().add(LinkBridge::new("fabric0").build()).execute().await.context("cannot make the fabric")?;
        up(handle, "fabric0").await
    })?;
    for (number, node) in nodes {
        let (outer, inner) = (format!("node{number}"), format!("up{number}"));
        join(fabric, "fabric0", node, &Ports { outer: &outer, inner: &inner })?;
        session(node, async |handle| {
            let at = index(handle, &inner).await?;
            rename(handle, at, "up0").await?;
            addresses(handle, at, AddressPlan::uplink(*number)).await?;
            up(handle, "up0").await?;
            for (other, _) in nodes.iter().filter(|(other, _)| other != number) {
                route_to(handle, *other).await?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn join(outer_ns: &Netns, bridge: &str, inner_ns: &Netns, ports: &Ports<'_>) -> Result<()> {
    // Before the link comes: it takes its settings from the namespace's defaults when it arrives.
    inner_ns.run(no_waiting_addresses)??;
    let inner_fd = inner_ns.open()?;
    session(outer_ns, async |handle| {
        handle
            .link()
            .add(LinkVeth::new(ports.outer, ports.inner).build())
            .execute()
            .await
            .with_context(|| format!("cannot make veth {}", ports.outer))?;
        let (outer, inner) = (index(handle, ports.outer).await?, index(handle, ports.inner).await?);
        let controller = index(handle, bridge).await?;
        let moved = LinkUnspec::new_with_index(inner).setns_by_fd(inner_fd.as_raw_fd()).build();
        handle.link().set(moved).execute().await.with_context(|| format!("cannot move {}", ports.inner))?;
        let raised = LinkUnspec::new_with_index(outer).controller(controller).up().build();
        handle.link().set(raised).execute().await.with_context(|| format!("cannot bridge {}", ports.outer))
    })
}

async fn route_to(handle: &Handle, node: u8) -> Result<()> {
    let (gateway, pods) = (AddressPlan::uplink(node), AddressPlan::gateway(node));
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::from(u32::from(pods.v4) & !0xff), 24)
        .gateway(gateway.v4)
        .build();
    handle.route().add(v4).execute().await.with_context(|| format!("cannot route to node {node}"))?;
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::from(u128::from(pods.v6) & !u128::from(u64::MAX)), 64)
        .gateway(gateway.v6)
        .build();
    handle.route().add(v6).execute().await.with_context(|| format!("cannot route to node {node} by IPv6"))
}

async fn addresses(handle: &Handle, link: u32, ips: PodIps) -> Result<()> {
    let prefix = |ip: IpAddr| match ip {
        IpAddr::V4(v4) if v4.octets()[0] == 172 => 16,
        IpAddr::V4(_) => 24,
        IpAddr::V6(_) => 64,
    };
    for ip in ips.both() {
        handle.address().add(link, ip, prefix(ip)).execute().await.with_context(|| format!("cannot add {ip}"))?;
    }
    Ok(())
}

async fn up(handle: &Handle, name: &str) -> Result<()> {
    let at = index(handle, name).await?;
    let message = LinkUnspec::new_with_index(at).up().build();
    handle.link().set(message).execute().await.with_context(|| format!("cannot raise {name}"))
}

async fn rename(handle: &Handle, at: u32, to: &str) -> Result<()> {
    let message = LinkUnspec::new_with_index(at).name(to).build();
    handle.link().set(message).execute().await.with_context(|| format!("cannot rename a link to {to}"))
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let link = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    Ok(link.with_context(|| format!("cannot look up {name}"))?.ok_or_else(|| anyhow!("no link {name}"))?.header.index)
}

/// Duplicate address detection would keep a fresh IPv6 address unusable for a second; nobody else is on this link.
fn no_waiting_addresses() -> Result<()> {
    sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    sysctl("net/ipv6/conf/default/accept_dad", "0")
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    // /proc/sys/net shows the namespace of the thread that opens it.
    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name}={value}"))
}

/// Runs netlink requests inside a namespace.
fn session<T: Send>(ns: &Netns, work: impl AsyncFnOnce(&Handle) -> Result<T> + Send) -> Result<T> {
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
            let driver = tokio::spawn(connection);
            let result = work(&handle).await;
            driver.abort();
            result
        })
    })?
}
