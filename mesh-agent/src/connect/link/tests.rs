use super::*;
use crate::snapshot::ServiceName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn port(port: u16) -> PortKey {
    PortKey::new(ServiceName::new("shop", "cart"), port)
}

/// Both ends of a connection over which four bytes went.
async fn used() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"ping").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    (client, server)
}

fn seen(links: &Links, of: u16) -> (u64, u64) {
    let all = links.read();
    let (_, seen) = all.iter().find(|(key, _)| *key == port(of)).unwrap();
    (seen.srtt.iter().sum(), seen.srtt_us_sum)
}

#[tokio::test]
async fn a_connection_is_seen_while_it_sends_and_once_where_it_is_short() {
    let links = Links::default();
    let (long, short) = (used().await, used().await);
    let attached = links.of(&port(80)).attach(&long.0);
    assert_eq!(attached.link().local(), long.0.local_addr().ok());
    assert_eq!(seen(&links, 80).0, 0, "nobody has looked");
    links.sample();
    let (count, sum) = seen(&links, 80);
    assert!(count == 1 && sum > 0, "{count} {sum}");
    drop(attached);
    assert_eq!(seen(&links, 80).0, 1, "it was seen before its end");
    drop(links.of(&port(81)).attach(&short.0));
    assert_eq!(seen(&links, 81).0, 1, "at its end");
    links.sample();
    assert_eq!((seen(&links, 80).0, seen(&links, 81).0), (1, 1), "nothing is seen after the end");
}

#[tokio::test]
async fn what_it_was_at_its_end_stays_and_the_socket_is_not_looked_at_again() {
    let links = Links::default();
    let (client, _server) = used().await;
    let attached = links.of(&port(80)).attach(&client);
    let link = Arc::clone(attached.link());
    let open = link.tcp();
    assert!(open.srtt_us > 0);
    drop(attached);
    drop(client);
    // A socket that may get the same number must not be taken for it.
    let (_other, _end) = used().await;
    let state = lock(&link.state);
    assert_eq!((state.socket, state.last.srtt_us > 0), (None, true));
}

#[tokio::test]
async fn ports_without_connections_go_with_the_configuration() {
    let links = Links::default();
    let (client, _server) = used().await;
    let upstream = links.of(&port(80));
    let attached = upstream.attach(&client);
    drop(upstream);
    links.of(&port(81));
    links.sweep(|_| false);
    assert_eq!(links.read().len(), 1, "a connection is open");
    drop(attached);
    links.sweep(|key| key.port == 80);
    assert_eq!(links.read().len(), 1);
    links.sweep(|_| false);
    assert!(links.read().is_empty());
}
