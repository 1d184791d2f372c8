//! The same VirtualServices and the same requests through a real Envoy and through the agent: the same answers.
//!
//! Compared: status, the endpoint chosen, what it got (method, target, host, header fields), how often it was asked, the
//! response's header fields, the text of local answers (`grpc-message` goes on behind Envoy's), the response flags.
//!
//! Left out: a header field that comes twice. Envoy 1.40 matches each of its values, Istio's Envoy (SEMANTICS §2.4) and
//! the agent match them joined with `,`.

#[path = "support_envoy/backend.rs"]
mod backend;
#[path = "support_envoy/cases.rs"]
mod cases;
#[path = "support_envoy/proxies.rs"]
mod proxies;
#[path = "support_envoy/translate.rs"]
mod translate;

use cases::CASES;
use proxies::{Answer, Proxies};
use std::fmt::Write as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_answers_as_envoy_does() {
    let proxies = Proxies::start().await;
    let (mut asked, mut report) = (0, String::new());
    for case in CASES {
        for ask in case.asks {
            asked += 1;
            let envoy = proxies.envoy(case.name, ask, asked).await;
            let agent = proxies.agent(case.name, ask, asked).await;
            for difference in differences(&envoy, &agent) {
                writeln!(report, "{}: {ask}\n    {difference}", case.name).expect("a String takes everything");
            }
        }
    }
    assert!(asked >= 60, "{asked} asked");
    assert!(report.is_empty(), "of {asked} requests:\n{report}");
}

fn differences(envoy: &Answer, agent: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, envoy: &dyn std::fmt::Debug, agent: &dyn std::fmt::Debug| {
        let (envoy, agent) = (format!("{envoy:?}"), format!("{agent:?}"));
        if envoy != agent {
            found.push(format!("{what}: Envoy {envoy}, agent {agent}"));
        }
    };
    compare("status", &envoy.status, &agent.status);
    compare("response", &envoy.headers, &agent.headers);
    compare("endpoint got", &envoy.got, &agent.got);
    compare("flags", &envoy.flags, &agent.flags);
    if envoy.got.is_none() {
        let grpc = envoy.headers.contains_key("grpc-status");
        // On loopback a refused connect() fails at once, where Envoy gives no reason of the transport's; elsewhere it does.
        let [envoy, agent] = [envoy, agent].map(|answer| answer.text.split(", transport failure reason").next());
        let (envoy, agent) = (envoy.unwrap_or_default(), agent.unwrap_or_default());
        let text = if grpc && agent.starts_with(envoy) { envoy } else { agent };
        compare("text", &envoy, &text);
    }
    found
}
