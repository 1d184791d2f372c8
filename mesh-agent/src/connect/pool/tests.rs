use super::super::OpenSocket;
use super::*;
use crate::http2::Ledger;
use crate::snapshot::{PortKey, ServiceName};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// As the keeper's, in this namespace.
fn pod() -> Dialer {
    let open: OpenSocket = Arc::new(|_, _| {
        Box::pin(async {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            Ok(OwnedFd::from(socket))
        })
    });
    Dialer::Pod(open)
}

/// The endpoint's end of a connection that lies idle in its pool.
async fn pooled(pools: &Rc<Pools>, listener: &TcpListener, source: u64, dialer: &Dialer, wire: Wire) -> TcpStream {
    let key = PortKey::new(ServiceName::new("shop", "cart"), 80).into();
    let upstream = pools.upstream(&key, &Arc::default());
    let to = EndpointAddr::new(listener.local_addr().unwrap());
    let way = Way { source, dialer, upstream: &upstream, to, ends: None, others: false };
    let pool = async {
        match wire {
            Wire::Http1 => {
                let sender = pools.http1(&way).await.unwrap();
                pools.pool(&pools.http1, way, http1::Pool::new).idle.put(sender);
            }
            Wire::Http2 => drop(pools.http2(&way).await.unwrap()),
        }
    };
    let accept = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        if wire == Wire::Http2 {
            // An empty SETTINGS frame: the server speaks first (RFC 9113 §3.4).
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        }
        stream
    };
    tokio::join!(accept, pool).0
}

async fn closes(stream: &mut TcpStream) -> bool {
    let to_end = async {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_millis(200), to_end).await.is_ok()
}

#[tokio::test]
async fn a_pool_stays_while_a_request_of_it_runs() {
    LocalSet::new()
        .run_until(async {
            let pools = Rc::new(Pools::new(Arc::new(Ledger::new(1 << 20)), Arc::default()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = EndpointAddr::new(listener.local_addr().unwrap());
            let upstream = pools.upstream(&PortKey::new(ServiceName::new("shop", "cart"), 80).into(), &Arc::default());
            let way = Way { source: 0, dialer: &Dialer::Host, upstream: &upstream, to, ends: None, others: false };
            let running = pools.http1(&way).await.unwrap();
            pools.sweep(Nanos::now());
            assert_eq!(pools.http1.borrow().len(), 1, "the connection would not find back");
            drop(running);
            pools.sweep(Nanos::now());
            assert!(pools.http1.borrow().is_empty());
        })
        .await;
}

#[tokio::test]
async fn idle_connections_go_with_their_pod() {
    LocalSet::new()
        .run_until(async {
            for wire in [Wire::Http1, Wire::Http2] {
                let pools = Rc::new(Pools::new(Arc::new(Ledger::new(1 << 20)), Arc::default()));
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (leaving, staying) = (pod(), pod());
                let mut gone = pooled(&pools, &listener, 7, &leaving, wire).await;
                let mut kept = pooled(&pools, &listener, 8, &staying, wire).await;
                let mut own = pooled(&pools, &listener, 0, &Dialer::Host, wire).await;
                let connection = leaving.clone();
                drop(leaving);
                pools.sweep(Nanos::now());
                assert!(!closes(&mut gone).await, "{wire:?}: a connection of the pod may still use it");
                drop(connection);
                pools.sweep(Nanos::now());
                assert!(closes(&mut gone).await, "{wire:?}");
                assert!(!closes(&mut kept).await && !closes(&mut own).await, "{wire:?}: others stay");
            }
        })
        .await;
}
