//! `mesh-agent status`.

use super::client::Client;
use super::kernel::on_off;
use super::output::{self, Format, Paint, Style};
use super::table::Table;
use crate::admin::view::{Cluster, KernelStatus, Status};
use anyhow::Result;
use std::fmt::Write as _;
use std::time::Duration;

/// A beat older than this is shown as trouble: the connect hooks take the agent for dead after a second.
const STALE_MS: u64 = 1_000;

pub(super) fn run(client: &Client, format: Format) -> Result<()> {
    let status: Status = client.read("/status")?;
    output::print(format, &status, |paint| draw(&status, paint))
}

fn draw(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let state = if status.draining { paint.text("draining", Style::Warn) } else { paint.text("serving", Style::Good) };
    let up = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    field(&mut out, paint, "node", &format!("{} · {state} for {up} · pid {}", status.node, status.pid));
    field(&mut out, paint, "version", &status.version);
    let config = &status.config;
    let mut sources: Vec<String> = config.sources.iter().map(|path| path.display().to_string()).collect();
    sources.extend(config.cluster.as_ref().map(|cluster| cluster.server.clone()));
    let sizes = format!("services {}, endpoints {}", config.services, config.endpoints);
    field(&mut out, paint, "config", &format!("generation {} · {sizes} · {}", config.generation, sources.join(", ")));
    if let Some(cluster) = &config.cluster {
        let (text, style) = standing(cluster);
        field(&mut out, paint, "api server", &paint.text(&text, style));
    }
    let found = &config.diagnostics;
    let style = match (found.errors, found.warnings) {
        (0, 0) => Style::Good,
        (0, _) => Style::Warn,
        _ => Style::Bad,
    };
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let counts = [(found.errors, "error"), (found.warnings, "warning"), (found.infos, "info")];
    let counts = counts.map(|(number, what)| count(number, what)).join(", ");
    let more = if found.errors + found.warnings > 0 { " · see `mesh-agent diagnostics`" } else { "" };
    field(&mut out, paint, "diagnostics", &format!("{}{more}", paint.text(&counts, style)));
    out.push_str(&kernel_lines(&status.kernel, paint));
    if let Some(chain) = &status.cni {
        let text = match &chain.file {
            Some(file) => format!("chained in {}", file.display()),
            None => because(&paint.text("not chained: new pods do not wait for the mesh", Style::Warn), &chain.reason),
        };
        field(&mut out, paint, "cni", &text);
    }
    let counts = &status.connections;
    field(
        &mut out,
        paint,
        "connections",
        &format!("{} open · {} requests active", counts.open, counts.active_requests),
    );
    let metrics = status.metrics_addr.map_or_else(|| "off".to_owned(), |addr| format!("http://{addr}/metrics"));
    field(&mut out, paint, "workers", &format!("{} · metrics {metrics}", status.workers));
    for listener in &status.listeners {
        let known = if listener.known { "" } else { " · not configured (yet): answers 503" };
        field(
            &mut out,
            paint,
            "listener",
            &format!("{} → {}{}", listener.addr, listener.target, paint.text(known, Style::Warn)),
        );
    }
    let pods = &status.pods;
    let counts = format!("{} in the mesh, {} outside", pods.in_mesh.len(), pods.outside.len());
    field(&mut out, paint, "pods", &format!("{counts} · {} on other nodes", pods.elsewhere));
    if !(pods.in_mesh.is_empty() && pods.outside.is_empty()) {
        let mut table = Table::new(&["POD", "MESH", "REASON"]);
        for pod in &pods.in_mesh {
            table.row(vec![pod.as_str().into(), super::table::Cell::styled("in", Style::Good), "".into()]);
        }
        for pod in &pods.outside {
            let outside = super::table::Cell::styled("outside", Style::Warn);
            table.row(vec![pod.pod.as_str().into(), outside, pod.reason.as_str().into()]);
        }
        let _ = write!(out, "\n{}", table.render(paint));
    }
    out
}

fn standing(cluster: &Cluster) -> (String, Style) {
    let away = cluster.away_seconds.map(|s| format!(" for {}", humantime::format_duration(Duration::from_secs(s))));
    let (what, style) = match cluster.state.as_str() {
        "in-sync" => ("in sync", Style::Good),
        "away" => ("not reached; what was last heard stays in force", Style::Warn),
        "last-known" => ("not heard in full; what an earlier run heard is in force", Style::Warn),
        _ => ("waiting for its first answer; nothing is served yet", Style::Bad),
    };
    (because(&format!("{what}{}", away.unwrap_or_default()), &cluster.reason), style)
}

/// The kernel half in four lines; shared with `mesh-agent kernel`.
pub(super) fn kernel_lines(kernel: &KernelStatus, paint: Paint) -> String {
    let mut out = String::new();
    let style = if kernel.tier == "full" { Style::Good } else { Style::Warn };
    field(&mut out, paint, "kernel", &because(&paint.text(&kernel.tier, style), &kernel.reason));
    field(&mut out, paint, "sk_msg", &because(on_off(kernel.sk_msg.on), &kernel.sk_msg.reason));
    if let Some(age) = kernel.heartbeat_age_ms {
        let style = if age > STALE_MS { Style::Bad } else { Style::Good };
        field(&mut out, paint, "heartbeat", &paint.text(&format!("{age} ms ago"), style));
    }
    for other in &kernel.other_programs {
        let who = format!("{} (id {}) of someone else on {}", other.name, other.id, other.hook);
        field(&mut out, paint, "also there", &paint.text(&who, Style::Warn));
    }
    out
}

fn because(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what} · {why}") }
}

fn field(out: &mut String, paint: Paint, name: &str, value: &str) {
    let _ =
        writeln!(out, "{}{} {value}", paint.text(name, Style::Bold), " ".repeat(12_usize.saturating_sub(name.len())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{Chain, OtherProgram, OutsidePod, Pods, Switch};

    #[test]
    fn nothing_is_silent() {
        let status = Status {
            node: "n1".into(),
            kernel: KernelStatus {
                tier: "none".into(),
                reason: "--no-kernel".into(),
                sk_msg: Switch { on: false, reason: "no kernel programs".into() },
                other_programs: vec![OtherProgram { hook: "connect4".into(), id: 7, name: "cil_sock4".into() }],
                heartbeat_age_ms: Some(5_000),
                ..KernelStatus::default()
            },
            cni: Some(Chain { file: None, reason: "a single plugin".into() }),
            pods: Pods {
                in_mesh: vec!["a/b".into()],
                outside: vec![OutsidePod { pod: "a/c".into(), reason: "pod opts out".into() }],
                elsewhere: 3,
            },
            ..Status::default()
        };
        let text = draw(&status, Paint::off());
        for needle in [
            "--no-kernel",
            "cil_sock4",
            "5000 ms ago",
            "not chained: new pods do not wait for the mesh · a single plugin",
            "1 in the mesh, 1 outside",
            "pod opts out",
            "3 on other nodes",
        ] {
            assert!(text.contains(needle), "{needle} in {text}");
        }
    }
}
