//! Medians, spread and ratios of a bench, as `results.json`, `table.md` and one plot per cell.

use super::cells::Cell;
use super::proxies::Proxy;
use super::rounds::Sample;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// One line of the table: a proxy in a cell, over all rounds.
#[derive(Serialize)]
struct Row {
    proxy: Proxy,
    workers: usize,
    median: f64,
    /// (largest − smallest) ÷ median.
    spread: f64,
    cpu: Option<f64>,
    p50: f64,
    p99: f64,
    p999: f64,
    /// Undermesh's ([`Proxy::against`]) ÷ this one's, the median of each round's own ratio.
    undermesh_ratio: Option<f64>,
    /// Least to most of the endpoints' shares, in percent.
    shares: (f64, f64),
}

/// Writes `results.json`, `table.md` and `<cell>.svg` to `dir`.
pub(super) fn write(dir: &Path, samples: &[Sample]) -> Result<()> {
    let save = |name: &str, text: &str| {
        fs::write(dir.join(name), text).with_context(|| format!("cannot write {}", dir.join(name).display()))
    };
    save("results.json", &serde_json::to_string_pretty(samples)?)?;
    save("table.md", &table(samples))?;
    for (cell, rows) in rows(samples) {
        save(&format!("{}.svg", cell.name()), &plot(cell, &rows))?;
    }
    Ok(())
}

/// The table as Markdown.
pub(super) fn table(samples: &[Sample]) -> String {
    let mut text = String::new();
    for (cell, rows) in rows(samples) {
        let metric = cell.metric();
        let better = if metric.higher_is_better { "more is better" } else { "less is better" };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n### {} ({}, {better})\n\n| proxy | cores | median | spread | CPU µs each | p50 µs | p99 µs | p99.9 µs | shares | undermesh ÷ this |\n|---|---|---|---|---|---|---|---|---|---|\n",
            cell.name(),
            metric.unit
        );
        for row in rows {
            let dash = || "–".to_owned();
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.0} % | {} | {:.0} | {:.0} | {:.0} | {:.1}–{:.1} % | {} |",
                row.proxy.name(),
                row.workers,
                row.median,
                row.spread * 100.0,
                row.cpu.map_or_else(dash, |c| format!("{c:.2}")),
                row.p50,
                row.p99,
                row.p999,
                row.shares.0,
                row.shares.1,
                row.undermesh_ratio.map_or_else(dash, |r| format!("{r:.2}"))
            );
        }
    }
    text
}

fn rows(samples: &[Sample]) -> BTreeMap<Cell, Vec<Row>> {
    let mut groups: BTreeMap<(Cell, usize, Proxy), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        groups.entry((sample.cell, sample.workers, sample.proxy)).or_default().push(sample);
    }
    let mut rows: BTreeMap<Cell, Vec<Row>> = BTreeMap::new();
    for ((cell, workers, proxy), own) in &groups {
        let of = |pick: &dyn Fn(&Sample) -> f64| median(own.iter().map(|s| pick(s)).collect());
        let mesh = groups.get(&(*cell, *workers, proxy.against(*cell)));
        let paired = |s: &&Sample| {
            let mesh = mesh?.iter().find(|m| m.round == s.round)?;
            (s.value > 0.0).then(|| mesh.value / s.value)
        };
        let ratios: Vec<f64> = own.iter().filter_map(paired).collect();
        let value = of(&|s| s.value);
        let values = own.iter().map(|s| s.value);
        let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(l, m), v| (l.min(v), m.max(v)));
        let cpus: Vec<f64> = own.iter().filter_map(|s| s.cpu).collect();
        rows.entry(*cell).or_default().push(Row {
            proxy: *proxy,
            workers: *workers,
            median: value,
            spread: if value > 0.0 { (most - least) / value } else { 0.0 },
            cpu: (!cpus.is_empty()).then(|| median(cpus)),
            p50: of(&|s| s.report.p50),
            p99: of(&|s| s.report.p99),
            p999: of(&|s| s.report.p999),
            undermesh_ratio: (!ratios.is_empty() && *proxy != proxy.against(*cell)).then(|| median(ratios)),
            shares: shares(own),
        });
    }
    rows
}

fn shares(samples: &[&Sample]) -> (f64, f64) {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    for (tag, calls) in samples.iter().flat_map(|s| &s.report.backends) {
        *counts.entry(*tag).or_default() += calls;
    }
    let all = counts.values().sum::<u64>() as f64;
    if all == 0.0 {
        return (0.0, 0.0);
    }
    let share = |calls: Option<&u64>| calls.map_or(0.0, |c| *c as f64 * 100.0 / all);
    // An endpoint without a single call is not in the map.
    let least = if counts.len() < super::proxies::ENDPOINTS.len() { 0.0 } else { share(counts.values().min()) };
    (least, share(counts.values().max()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Horizontal bars, one per proxy and number of cores.
fn plot(cell: Cell, rows: &[Row]) -> String {
    const LINE: usize = 26;
    const LABEL: f64 = 170.0;
    const WIDTH: f64 = 480.0;
    let most = rows.iter().map(|r| r.median).fold(f64::MIN_POSITIVE, f64::max);
    let height = 40 + LINE * rows.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n<text x=\"8\" y=\"20\" font-weight=\"bold\">{} ({})</text>\n",
        cell.name(),
        cell.metric().unit
    );
    for (at, row) in rows.iter().enumerate() {
        let y = 32 + at * LINE;
        let width = (row.median / most * WIDTH).max(1.0);
        let colour = if matches!(
            row.proxy,
            Proxy::Undermesh
                | Proxy::Armed
                | Proxy::Unobserved
                | Proxy::Baseline
                | Proxy::Tapped
                | Proxy::Observed
                | Proxy::Stalled
                | Proxy::Hook
                | Proxy::HookSkMsg
        ) {
            "#1f77b4"
        } else {
            "#b0b0b0"
        };
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\">{} ×{}</text><rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{:.0}</text>",
            y + 15,
            row.proxy.name(),
            row.workers,
            LINE - 6,
            LABEL + width + 6.0,
            y + 15,
            row.median
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
    }
}
