//! Against a DNS server of our own that answers what the test says.

use super::*;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use tokio::net::UdpSocket;

/// IPv4 answers with a TTL of 1 s; none: SERVFAIL.
type Zone = Arc<Mutex<Option<Vec<Ipv4Addr>>>>;

/// RFC 1035 §4.1: header, the question as it came, one A record for each address.
fn reply(query: &[u8], addresses: Option<&[Ipv4Addr]>) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 1;
    let question = &query[12..name_end + 4];
    let is_a = query[name_end..name_end + 2] == [0, 1];
    let records = addresses.filter(|_| is_a).unwrap_or(&[]);
    let mut reply = query[..2].to_vec();
    reply.extend([
        0x81,
        if addresses.is_some() { 0x80 } else { 0x82 },
        0,
        1,
        0,
        u8::try_from(records.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    reply.extend(question);
    for address in records {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}

async fn server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let answer = reply(&buffer[..n], zone.lock().unwrap().as_deref());
            let _ = socket.send_to(&answer, from).await;
        }
    });
    addr
}

fn names(addr: SocketAddr) -> (Names, mpsc::UnboundedReceiver<Answer>) {
    let mut connection = ConnectionConfig::udp();
    connection.port = addr.port();
    let server = NameServerConfig::new(addr.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    Names::new(Resolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap())
}

#[tokio::test]
async fn answers_follow_their_ttl_and_survive_a_server_that_is_away() {
    let zone: Zone = Arc::new(Mutex::new(Some(vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)])));
    let (mut names, mut answers) = names(server(Arc::clone(&zone)).await);
    let wanted: Arc<str> = "api.example.org".into();
    names.want([&wanted].into_iter());
    let (name, mut addresses) = answers.recv().await.unwrap();
    addresses.sort();
    assert_eq!(
        (&*name, addresses),
        ("api.example.org", vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()])
    );

    *zone.lock().unwrap() = Some(vec![Ipv4Addr::new(10, 0, 0, 3)]);
    let (_, addresses) = tokio::time::timeout(Duration::from_secs(10), answers.recv()).await.unwrap().unwrap();
    assert_eq!(addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()]);

    // Nothing is said while the server fails: what was known stays.
    *zone.lock().unwrap() = None;
    assert!(tokio::time::timeout(Duration::from_secs(3), answers.recv()).await.is_err());
    names.want(std::iter::empty());
    assert!(names.tasks.is_empty());
}
