//! Scenario C: Sock Shop, each service with a DestinationRule and a VirtualService, orders in two versions.

use super::check::Checks;
use super::stage::{Stage, count, said};
use super::{Scenario, Step};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const NS: &str = "sock-shop";

pub(super) const SOCK_SHOP: Scenario = Scenario {
    id: "C",
    title: "Sock Shop: weights by version",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "C1",
            title: "orders v1 and v2 share the requests",
            lesson: "The weights of a VirtualService hold for every caller of the Service, whatever it is.",
            waits_for: None,
            act: halves,
        },
        Step {
            id: "C2",
            title: "The whole shop with a rule for each service",
            lesson: "An order asks user, carts, payment and shipping: five services, each behind a route of its own.",
            waits_for: None,
            act: whole,
        },
    ],
};

/// Sock Shop and a client in the mesh.
pub(super) fn set_up(stage: &Stage) -> Result<()> {
    stage.ours("sock-shop.yaml")?;
    stage.lab.pod("client").namespace(NS).label("app", "client").start()?;
    stage.enrol(NS)
}

fn halves(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("sock-shop-routes.yaml")?;
    checks.shares("orders 50/50, asked by a client", 1000, &[("v1", 0.5), ("v2", 0.5)], || {
        stage.versions(&client, "http://orders/", 1000, &[])
    })?;
    checks.shares("orders 50/50, asked by front-end", 200, &[("v1", 0.5), ("v2", 0.5)], || {
        let replies = stage.fetch(&client, "http://front-end/orders", &["--count", "200", "--concurrency", "4"])?;
        Ok(count(&replies, |reply| match serde_json::from_str::<Value>(&reply.body) {
            Ok(body) if reply.status == 200 => {
                body["calls"][0]["answer"]["version"].as_str().unwrap_or_default().to_owned()
            }
            _ => said(reply),
        }))
    })
}

fn whole(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("sock-shop-routes.yaml")?;
    for path in ["/catalogue", "/cart", "/orders", "/login", "/customers/1"] {
        let replies = stage.fetch(&client, &format!("http://front-end{path}"), &["--count", "20"])?;
        let seen = count(&replies, said);
        checks.equal(&format!("front-end{path}"), &BTreeMap::from([("200".to_owned(), 20)]), &seen);
    }
    let reply = stage.get(&client, "http://front-end/orders", &[])?;
    let body: Value = serde_json::from_str(&reply.body).with_context(|| format!("{reply:?}"))?;
    let asked = body["calls"][0]["answer"]["calls"].as_array().into_iter().flatten();
    let asked: Vec<_> =
        asked.map(|call| format!("{} {}", call["answer"]["service"], call["answer"]["version"])).collect();
    let expected = ["user", "carts", "payment", "shipping"].map(|name| format!("\"{name}\" \"v1\""));
    checks.equal("whom orders asked", &expected.to_vec(), &asked);
    Ok(())
}
