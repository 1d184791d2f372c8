//! Scenario A4 and B4: a gateway pod in which nothing runs serves its ports from the node's agent, to clients outside
//! the mesh, over both families; the configuration opens and closes them under way.

mod support_node;

use mesh_test::lab::Lab;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;
use support_node::{PINGPONG, eventually, settled};

/// `port`: of the Gateway's one server.
fn gateway(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: pingpong}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]
"
    )
}

const ROUTES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: pingpong}
spec:
  hosts: [ws001.example.com]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /api}}]
    route: [{destination: {host: ws001-api, port: {number: 7001}}}]
";

/// The status of one request from the node, as a client from outside makes it; `None` where nobody listens.
fn get(lab: &Lab, to: SocketAddr, host: &str, path: &str) -> Option<u16> {
    let asked = lab.node_netns(0).run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    });
    asked.unwrap()
}

#[test]
fn an_ingress_gateway_serves_its_hosts_and_paths() {
    let lab = Lab::builder().start().unwrap();
    lab.label_namespace("pingpong", "istio-injection", Some("enabled")).unwrap();
    lab.apply_yaml(PINGPONG).unwrap();
    settled(&lab, "pingpong/ws002-pingpong:9000", 2);
    let ingress = lab.pod("ingress").namespace("pingpong").label("istio", "ingressgateway").start().unwrap();
    lab.agent(0).await_enrolled("pingpong", "ingress", true).unwrap();
    lab.apply_yaml(&gateway(8080)).unwrap();
    lab.apply_yaml(ROUTES).unwrap();

    let ips = ingress.ips();
    for ip in [IpAddr::from(ips.v4), IpAddr::from(ips.v6)] {
        let to = SocketAddr::new(ip, 8080);
        let asked = |host, path| get(&lab, to, host, path);
        let open = eventually(Duration::from_secs(10), || asked("ws001.example.com", "/api/pingpong") == Some(200));
        assert!(open, "{to}: {:?}; {}", asked("ws001.example.com", "/api/pingpong"), lab.agent(0).log_tail(30));
        assert_eq!(asked("other.example.com", "/api/pingpong"), Some(404), "{to}: wrong host");
        assert_eq!(asked("ws001.example.com", "/"), Some(404), "{to}: wrong path");
    }

    // The port moves: the new one opens, the former one closes.
    lab.apply_yaml(&gateway(80)).unwrap();
    let at = |port| get(&lab, SocketAddr::new(ips.v4.into(), port), "ws001.example.com", "/api/pingpong");
    assert!(eventually(Duration::from_secs(10), || at(80) == Some(200)), "{}", lab.agent(0).log_tail(30));
    assert!(eventually(Duration::from_secs(10), || at(8080).is_none()), "{}", lab.agent(0).log_tail(30));

    // Another agent takes over: the ports come back with it.
    lab.agent(0).restart().unwrap();
    assert!(eventually(Duration::from_secs(10), || at(80) == Some(200)), "{}", lab.agent(0).log_tail(30));
    lab.finish().unwrap();
}
