//! `mesh-agent kernel`: programs, maps and counters as the kernel holds them; the sk_msg switch.

use super::client::Client;
use super::output::{self, Format, Paint, Style};
use super::status::kernel_lines;
use super::table::{Cell, Table};
use crate::admin::view::{Kernel, Switch};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub struct KernelArgs {
    /// Switch socket redirection for new connections instead of showing anything
    #[arg(long, value_enum, value_name = "on|off")]
    pub sk_msg: Option<OnOff>,
    /// Decode this map's entries too (a name from the table), or `all`
    #[arg(long, value_name = "NAME")]
    pub map: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    On,
    Off,
}

pub(super) fn run(client: &Client, format: Format, args: &KernelArgs) -> Result<()> {
    if let Some(wanted) = args.sk_msg {
        let body = if wanted == OnOff::On { "on" } else { "off" };
        let now: Switch = client.write("/kernel/sk-msg", body)?;
        return output::print(format, &now, |_| format!("sk_msg {}: {}\n", on_off(now.on), now.reason));
    }
    let kernel: Kernel = client.read("/kernel")?;
    output::print(format, &kernel, |paint| draw(&kernel, args.map.as_deref(), paint))
}

pub(super) fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn draw(kernel: &Kernel, map: Option<&str>, paint: Paint) -> String {
    let mut out = kernel_lines(&kernel.status, paint);
    if !kernel.hooks.is_empty() {
        let place = format!("{} on {} · pins in {}", kernel.adoption, kernel.pods_cgroup, kernel.pin_dir);
        let _ = writeln!(out, "{} {place}", paint.text("programs    ", Style::Bold));
        let mut table = Table::new(&["HOOK", "STATE", "WHY"]);
        for hook in &kernel.hooks {
            let style = if hook.state == "missing" { Style::Bad } else { Style::Good };
            let state = Cell::styled(hook.state.as_str(), style);
            table.row(vec![hook.name.as_str().into(), state, hook.why.as_str().into()]);
        }
        let _ = write!(out, "\n{}", table.render(paint));
    }
    if !kernel.maps.is_empty() {
        let mut table = Table::new(&["MAP", "ENTRIES", "CAPACITY"]);
        for map in &kernel.maps {
            let capacity = map.capacity.map_or_else(|| "-".to_owned(), |capacity| capacity.to_string());
            table.row(vec![map.name.as_str().into(), Cell::number(&map.entries), Cell::number(&capacity)]);
        }
        let _ = write!(out, "\n{}", table.render(paint));
    }
    for shown in
        kernel.maps.iter().filter(|m| map.is_some_and(|name| name == "all" || name.eq_ignore_ascii_case(&m.name)))
    {
        let _ = writeln!(out, "\n{}", paint.text(&shown.name, Style::Bold));
        let mut table = Table::new(&["KEY", "VALUE"]);
        for row in &shown.rows {
            table.row(vec![row.key.as_str().into(), row.value.as_str().into()]);
        }
        out.push_str(&table.render(paint));
    }
    let counted: Vec<_> = kernel.counters.iter().filter(|counter| counter.count > 0).collect();
    if !counted.is_empty() {
        let mut table = Table::new(&["REASON", "COUNT"]);
        for counter in counted {
            table.row(vec![counter.reason.as_str().into(), Cell::number(&counter.count)]);
        }
        let _ = write!(out, "\n{}", table.render(paint));
    }
    out
}
