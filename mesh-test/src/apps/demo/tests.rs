use super::*;
use crate::apps::fetch::{FetchArgs, Reply, fetch};
use crate::apps::listen::bind;
use clap::Parser;
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Parser)]
struct Get {
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Parser)]
struct Be {
    #[command(flatten)]
    demo: DemoArgs,
}

/// Services on free ports that find each other by name, as pods do.
async fn start(services: &[&[&str]]) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    let mut demos = Vec::new();
    for args in services {
        let args = Be::parse_from([&["demo", "--service"][..], args].concat()).demo;
        let listener = bind(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        ports.insert(args.service.clone(), port);
        demos.push((Demo::new(&args, &Pod::named(&format!("{}-{}", args.service, args.version))).unwrap(), listener));
    }
    for (mut demo, listener) in demos {
        demo.dialer = Dialer::rerouted(ports.iter().map(|(name, port)| (name.clone(), *port)));
        let (trigger, shutdown) = Shutdown::pair();
        tokio::spawn(async move {
            let _alive = trigger;
            demo.serve(listener, shutdown).await
        });
    }
    ports
}

async fn get(port: u16, path: &str, more: &[&str]) -> Reply {
    let mut url = String::new();
    write!(url, "http://127.0.0.1:{port}{path}").unwrap();
    let args = [&["fetch", &url][..], more].concat();
    fetch(Get::parse_from(args).fetch, |_| {}).await.unwrap().pop().unwrap()
}

#[tokio::test]
async fn stars_tell_the_version_of_reviews() {
    for (version, stars) in [("v1", ""), ("v2", "color:black"), ("v3", "color:red")] {
        let ports = start(&[&["productpage"], &["details"], &["reviews", "--version", version], &["ratings"]]).await;
        let page = get(ports["productpage"], "/productpage", &[]).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.contains("William Shakespeare"), "{}", page.body);
        assert!(page.body.contains(&format!("Reviews served by: reviews-{version}")), "{}", page.body);
        assert_eq!(page.body.contains("★"), !stars.is_empty(), "{version}: {}", page.body);
        assert!(page.body.contains(stars), "{version}: {}", page.body);
    }
}

#[tokio::test]
async fn what_is_unreachable_is_said_on_the_page() {
    let ports = start(&[&["productpage"], &["reviews", "--version", "v3"], &["ratings", "--fail", "500"]]).await;
    let page = get(ports["productpage"], "/productpage", &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Ratings service is currently unavailable"), "{}", page.body);
    assert!(page.body.contains("Error fetching product details!"), "{}", page.body);
    assert_eq!(get(ports["productpage"], "/nothing", &[]).await.status, 404);
    assert_eq!(get(ports["productpage"], "/api/v1/products/0/reviews", &[]).await.status, 200);
}

#[tokio::test]
async fn signing_in_sets_a_cookie_that_becomes_end_user() {
    let ports = start(&[&["productpage"]]).await;
    let login = get(ports["productpage"], "/login", &["--method", "POST", "--data", "username=jason&passwd=x"]).await;
    assert_eq!((login.status, &*login.headers["location"]), (302, "/productpage"));
    assert!(login.headers["set-cookie"].starts_with("user=jason;"), "{login:?}");
    let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("a=b; user=jason"))]);
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers;
    let asked = Asked::read(request).await.unwrap();
    assert_eq!(asked.hand_on["end-user"], "jason");
    assert_eq!(asked.hand_on[header::COOKIE], "a=b; user=jason");
}

#[tokio::test]
async fn a_failure_behind_fails_the_shop_and_names_it() {
    let ports = start(&[&["front-end"], &["carts", "--fail", "503", "--version", "v2"]]).await;
    let reply = get(ports["front-end"], "/cart", &[]).await;
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(reply.status, 500);
    assert_eq!((&body["calls"][0]["status"], &body["calls"][0]["answer"]["version"]), (&json!(503), &json!("v2")));
    assert_eq!(get(ports["carts"], "/health", &[]).await.status, 200);
    let reply = get(ports["front-end"], "/catalogue", &[]).await;
    assert!(reply.body.contains("cannot connect to catalogue:80"), "{}", reply.body);
}
