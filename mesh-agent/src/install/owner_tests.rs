//! Against a scripted API server: what proves that the DaemonSet is gone, and what does not.

use super::*;
use kube::{Client, Config};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One connection, one answer.
#[derive(Clone, Debug)]
enum Reply {
    /// Status and body; then the connection closes.
    Ends(u16, String),
    /// 200 and the beginning of a body that does not end.
    Stays(String),
    Silence,
}

use Reply::{Ends, Silence, Stays};

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Get,
    List,
    Watch,
}

async fn server(reply: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, reply) = (listener.local_addr().unwrap(), Arc::new(reply));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let reply = Arc::clone(&reply);
            tokio::spawn(async move { serve(stream, &*reply).await });
        }
    });
    addr
}

async fn serve(mut stream: TcpStream, reply: &(dyn Fn(Asked) -> Reply + Send + Sync)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let asked = match path.split_once('?') {
        Some((_, query)) if query.contains("watch=true") => Asked::Watch,
        Some((path, query)) if path.ends_with("/daemonsets") => {
            assert!(query.contains("fieldSelector=metadata.name%3Dundermesh"), "{query}: the role names one object");
            Asked::List
        }
        _ => {
            assert!(path.contains("/apis/apps/v1/namespaces/mesh/daemonsets/undermesh"), "{path}");
            Asked::Get
        }
    };
    let (status, body, stays) = match reply(asked) {
        Ends(status, body) => (status, body, false),
        Stays(body) => (200, body, true),
        Silence => return std::future::pending().await,
    };
    // Without a length the body ends with the connection.
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    if stays {
        std::future::pending::<()>().await;
    }
}

/// As the API server writes it.
fn set(more: &str) -> String {
    format!(
        r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{"name":"undermesh","namespace":"mesh","uid":"u","resourceVersion":"7"{more}}}}}"#
    )
}

fn list(items: &str) -> String {
    format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"7"}},"items":[{items}]}}"#
    )
}

fn status(code: u16, reason: &str, name: &str) -> Reply {
    let details = format!(r#"{{"name":"{name}","group":"apps","kind":"daemonsets"}}"#);
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"m","reason":"{reason}","details":{details},"code":{code}}}"#
    );
    Ends(code, body)
}

async fn watching(addr: SocketAddr) -> OwnerWatch {
    let client = Client::try_from(Config::new(format!("http://{addr}").parse().unwrap())).unwrap();
    OwnerWatch::with(client, &"mesh/undermesh".parse().unwrap())
}

#[tokio::test]
async fn only_the_servers_own_word_about_this_daemonset_is_proof() {
    let deleted = set(r#","deletionTimestamp":"2026-01-01T00:00:00Z""#);
    for (reply, gone) in [
        (Ends(200, set("")), false),
        (Ends(200, deleted), true),
        (status(404, "NotFound", "undermesh"), true),
        // Something else is not there.
        (status(404, "NotFound", "mesh"), false),
        (Ends(404, "404 page not found\n".into()), false),
        (Ends(404, String::new()), false),
        // Broken RBAC, a token that has expired.
        (status(403, "Forbidden", "undermesh"), false),
        (status(401, "Unauthorized", ""), false),
        (status(500, "InternalError", "undermesh"), false),
        (Ends(503, "no backend".into()), false),
        (Ends(200, "{}".into()), false),
        (Silence, false),
    ] {
        let said = reply.clone();
        let addr =
            server(move |asked| if asked == Asked::Get { said.clone() } else { status(403, "Forbidden", "") }).await;
        let limit = if matches!(reply, Silence) { Duration::from_millis(50) } else { LIMIT };
        assert_eq!(watching(addr).await.is_gone_within(limit).await, gone, "{reply:?}");
    }
}

#[tokio::test]
async fn without_a_server_nothing_is_proved() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    assert!(!watching(addr).await.is_gone().await);
}

/// `helm uninstall`: the role goes with the DaemonSet, and the agent is told to end after both.
#[tokio::test]
async fn what_the_watch_saw_counts_when_nobody_may_ask_any_more() {
    let deleted = format!(r#"{{"type":"DELETED","object":{}}}"#, set("")) + "\n";
    let addr = server(move |asked| match asked {
        Asked::List => Ends(200, list(&set(""))),
        Asked::Watch => Stays(deleted.clone()),
        Asked::Get => status(403, "Forbidden", "undermesh"),
    })
    .await;
    let watch = watching(addr).await;
    while !watch.has_seen_it_go() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(watch.is_gone().await);
}

/// Installed again before its agent was told to end.
#[tokio::test]
async fn an_answer_counts_more_than_what_the_watch_saw() {
    let addr = server(|asked| match asked {
        Asked::List => Ends(200, list("")),
        Asked::Watch => Silence,
        Asked::Get => Ends(200, set("")),
    })
    .await;
    let watch = watching(addr).await;
    while !watch.has_seen_it_go() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!watch.is_gone().await);
}
