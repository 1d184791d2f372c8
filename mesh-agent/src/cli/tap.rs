//! `mesh-agent tap`: requests as they pass.

use super::client::{Client, ClientError, Lines};
use super::output::{self, Format, Paint, Style};
use crate::admin::view::{TapLine, Tapped, TappedPeer};
use crate::grpc;
use crate::telemetry::tap::TapQuestion;
use anyhow::{Context, Result};
use clap::Args;
use futures_util::future::{join_all, select_all};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::time::Instant;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TapArgs {
    /// Who asks: a pod, a workload or a canonical service as NAME or NAMESPACE/NAME; NAMESPACE/ for all of one. Repeatable
    #[arg(long, short = 's', value_name = "NAME")]
    pub from: Vec<String>,
    /// Who is asked: as --from, or a Service, or its host. Repeatable
    #[arg(long, short = 't', value_name = "NAME")]
    pub to: Vec<String>,
    /// What the path begins with
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// What the whole path is, without its query, as a VirtualService's `regex` (RE2)
    #[arg(long, value_name = "REGEX")]
    pub path_regex: Option<String>,
    /// Repeatable
    #[arg(long, short = 'X', value_delimiter = ',')]
    pub method: Vec<String>,
    /// 503, 5xx, 0 (no answer), grpc:14 or grpc:unavailable. Repeatable
    #[arg(long, value_delimiter = ',')]
    pub code: Vec<String>,
    /// End after this many requests
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
}

const AFTER_HELP: &str = "\
Shows each request when it has ended, from those that begin after the tap; opaque connections too, where no filter
asks for what only requests have. A request has to pass every filter, and one of the values of each.

Examples:
  mesh-agent tap                                          everything that passes this node's agent
  mesh-agent tap --cluster --to shop/                     what passes the agents of all nodes
  mesh-agent tap --from shop/web --to reviews --code 5xx  what web's pods got wrong from reviews
  mesh-agent tap --path /cart --method POST,PUT
  mesh-agent tap --code grpc:unavailable,grpc:deadline_exceeded
  mesh-agent tap --path-regex '/users/[0-9]+' --max 10
  mesh-agent tap -o json | jq 'select(.duration_ms > 100)'     one object per line

Nothing waits for the tap: where more passes than can be shown, the rest is counted and told at the end. An agent has
8 taps at most; without one it spends nothing on them. What only the kernel placed does not pass the agent.";

/// What was shown.
#[derive(Debug, Default)]
struct Shown {
    /// By how it ended.
    codes: BTreeMap<String, u64>,
    /// By agent, so far.
    dropped: BTreeMap<usize, u64>,
}

/// Of one agent or more, which are asked alike.
pub(super) fn run(clients: &[Client], format: Format, args: TapArgs) -> Result<()> {
    let TapArgs { from, to, path, path_regex, method, code: codes, max } = args;
    let methods = method.iter().map(|method| method.to_ascii_uppercase()).collect();
    let question = TapQuestion { from, to, path, path_regex, methods, codes, max };
    let runtime = clients.first().context("there is no agent to ask")?.runtime()?;
    runtime.block_on(watch(clients, format, &question))
}

async fn watch(clients: &[Client], format: Format, question: &TapQuestion) -> Result<()> {
    let mut taps = Taps::open(clients, &serde_json::to_string(question)?).await?;
    let (begun, paint) = (Instant::now(), Paint::for_stdout());
    output::complain("watching; Ctrl-C ends it");
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut shown = Shown::default();
    let complete = loop {
        let line = tokio::select! {
            biased;
            _ = interrupted.as_mut() => break true,
            line = taps.next() => line,
        };
        match line {
            None => break false,
            Some((agent, TapLine::Dropped(dropped))) => drop(shown.dropped.insert(agent, dropped)),
            Some((_, TapLine::Request(request))) => {
                shown.add(&request);
                if !output::try_say(&text(&request, format, paint)?)? {
                    break true;
                }
            }
        }
        // Each agent ends after as many: of several, only the first ones count.
        if question.max.is_some_and(|max| shown.count() >= max) {
            break true;
        }
    };
    output::complain(&shown.summary(begun.elapsed().as_secs_f64()));
    match taps.lost {
        Some(error) if !complete || clients.len() > 1 => Err(error.into()),
        _ => Ok(()),
    }
}

/// The open ones.
struct Taps {
    open: Vec<(usize, Lines)>,
    /// Why an agent's is not open; the last one's.
    lost: Option<ClientError>,
}

impl Taps {
    /// Those that cannot be opened are named on stderr.
    async fn open(clients: &[Client], question: &str) -> Result<Self> {
        let asked = join_all(clients.iter().map(|client| client.stream("/tap", question))).await;
        let mut taps = Self { open: Vec::new(), lost: None };
        for (agent, answer) in asked.into_iter().enumerate() {
            match answer {
                Ok(lines) => taps.open.push((agent, lines)),
                Err(error) => taps.lose(error, clients.len() > 1),
            }
        }
        match taps.lost {
            Some(error) if taps.open.is_empty() => Err(error.into()),
            lost => Ok(Self { lost, ..taps }),
        }
    }

    /// The next line of any, and whose it is. `None`: all have ended. Nothing is lost if the caller stops waiting.
    async fn next(&mut self) -> Option<(usize, TapLine)> {
        while !self.open.is_empty() {
            let any = select_all(self.open.iter_mut().map(|(_, lines)| Box::pin(lines.next::<TapLine>())));
            let (line, at, _) = any.await;
            match line {
                Ok(Some(line)) => return self.open.get(at).map(|(agent, _)| (*agent, line)),
                Ok(None) => {
                    let (_, lines) = self.open.swap_remove(at);
                    self.lose(ClientError::Ended(lines.agent().into()), !self.open.is_empty());
                }
                Err(error) => {
                    self.open.swap_remove(at);
                    self.lose(error, !self.open.is_empty());
                }
            }
        }
        None
    }

    fn lose(&mut self, error: ClientError, others: bool) {
        if others {
            output::complain(&format!("error: {error}"));
        }
        self.lost = Some(error);
    }
}

fn text(request: &Tapped, format: Format, paint: Paint) -> Result<String> {
    Ok(match format {
        Format::Table | Format::Dot => line(request, paint),
        Format::Json => serde_json::to_string(request)? + "\n",
        Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(request)?),
    })
}

/// `17:34:24.123 shop/web-1 → shop/reviews-v1-0  GET reviews:9080/1  200  3.21 ms  0/12 B`
fn line(request: &Tapped, paint: Paint) -> String {
    let time = request.time.split_once('T').map_or(&*request.time, |(_, time)| time.trim_end_matches('Z'));
    let (source, destination) = (peer(&request.source, "?"), peer(&request.destination, &request.service));
    let what = match &*request.protocol {
        "tcp" => "tcp".to_owned(),
        _ => format!("{} {}{}", request.method, request.host, request.path),
    };
    let (code, style) = outcome(request);
    let mut out = format!(
        "{} {} → {}  {}  {}  {:.2} ms  {}/{} B",
        paint.text(time, Style::Dim),
        clean(&source),
        paint.text(&clean(&destination), Style::Bold),
        clean(&what),
        paint.text(&code, style),
        request.duration_ms,
        request.request_bytes,
        request.response_bytes,
    );
    // Writing to a String does not fail.
    if request.attempts > 1 {
        let _ = write!(out, "  {}", paint.text(&format!("{} attempts", request.attempts), Style::Warn));
    }
    if !request.flags.is_empty() {
        let _ = write!(out, "  {} {}", paint.text(&request.flags.join(","), Style::Bad), clean(&request.details));
    }
    out.push('\n');
    out
}

fn peer(of: &TappedPeer, otherwise: &str) -> String {
    match (&*of.pod, of.address) {
        ("", None) => otherwise.to_owned(),
        ("", Some(address)) => address.to_string(),
        (pod, _) => format!("{}/{pod}", of.namespace),
    }
}

fn outcome(request: &Tapped) -> (String, Style) {
    let named = |status: u8| grpc::STATUS_NAMES.get(usize::from(status)).copied().unwrap_or("?");
    match (request.code, request.grpc_status) {
        (None, _) if request.protocol == "tcp" && request.flags.is_empty() => ("closed".into(), Style::Good),
        (None, _) => ("no answer".into(), Style::Bad),
        (_, Some(0)) => ("OK".into(), Style::Good),
        (_, Some(status)) => {
            let style = if matches!(status, 13..=15) { Style::Bad } else { Style::Warn };
            (format!("grpc {status} {}", named(status)), style)
        }
        (Some(code), None) => {
            let style = match code {
                ..400 => Style::Good,
                400..500 => Style::Warn,
                500.. => Style::Bad,
            };
            (code.to_string(), style)
        }
    }
}

/// Names and paths are the network's words: a terminal must not obey them.
fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Shown {
    fn add(&mut self, request: &Tapped) {
        *self.codes.entry(outcome(request).0).or_default() += 1;
    }

    fn count(&self) -> u64 {
        self.codes.values().sum()
    }

    fn summary(&self, seconds: f64) -> String {
        let codes: Vec<_> = self.codes.iter().map(|(code, count)| format!("{count} × {code}")).collect();
        let mut text = format!("{} in {seconds:.1} s", plural(self.count(), "request"));
        if !codes.is_empty() {
            let _ = write!(text, ": {}", codes.join(", "));
        }
        let dropped: u64 = self.dropped.values().sum();
        if dropped > 0 {
            let _ = write!(text, "; {dropped} more were not shown: they came faster than they could be");
        }
        text
    }
}

fn plural(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Tapped {
        let peer = |pod: &str| TappedPeer { namespace: "shop".into(), pod: pod.into(), ..TappedPeer::default() };
        Tapped {
            time: "2026-11-21T17:34:24.123Z".into(),
            source: peer("web-1"),
            destination: peer("db-0"),
            protocol: "http".into(),
            method: "GET".into(),
            host: "db:80".into(),
            path: "/a".into(),
            code: Some(200),
            duration_ms: 3.2111,
            response_bytes: 12,
            attempts: 1,
            ..Tapped::default()
        }
    }

    #[test]
    fn a_request_is_a_line() {
        let usual = line(&request(), Paint::off());
        assert_eq!(usual, "17:34:24.123 shop/web-1 → shop/db-0  GET db:80/a  200  3.21 ms  0/12 B\n");
        let unusual = Tapped {
            source: TappedPeer::default(),
            destination: TappedPeer::default(),
            service: "shop/db".into(),
            path: "/\u{1b}[31m\u{9b}".into(),
            code: Some(503),
            flags: vec!["URX".into(), "UF".into()],
            details: "upstream".into(),
            attempts: 3,
            ..request()
        };
        let text = line(&unusual, Paint::off());
        let rest = "? → shop/db  GET db:80/\\u{1b}[31m\\u{9b}  503  3.21 ms  0/12 B  3 attempts  URX,UF upstream\n";
        assert_eq!(text, format!("17:34:24.123 {rest}"));
    }

    #[test]
    fn what_it_came_to_is_told_at_the_end() {
        let mut shown = Shown::default();
        assert_eq!(shown.summary(0.5), "0 requests in 0.5 s");
        shown.add(&request());
        shown.add(&request());
        shown.add(&Tapped { grpc_status: Some(14), ..request() });
        shown.dropped = BTreeMap::from([(0, 3), (1, 4)]);
        let text = "3 requests in 2.0 s: 2 × 200, 1 × grpc 14 Unavailable; 7 more were not shown";
        assert!(shown.summary(2.0).starts_with(text), "{}", shown.summary(2.0));
    }

    #[test]
    fn how_a_request_ended_has_a_colour() {
        let of = |code, grpc_status| outcome(&Tapped { code, grpc_status, ..request() });
        assert_eq!(of(None, None), ("no answer".into(), Style::Bad));
        assert_eq!(of(Some(404), None), ("404".into(), Style::Warn));
        assert_eq!(of(Some(200), Some(0)), ("OK".into(), Style::Good));
        assert_eq!(of(Some(200), Some(5)), ("grpc 5 NotFound".into(), Style::Warn));
        assert_eq!(of(Some(200), Some(14)).1, Style::Bad);
    }
}
