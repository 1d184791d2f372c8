//! The scenario's table: a line for each promise, or a JSON document for each line.

use super::check::Check;
use super::{Scenario, Step};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// How to show a scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table, with colours on a terminal
    #[default]
    Text,
    /// A JSON document per line
    Json,
}

pub(super) struct Show {
    format: Format,
    colour: bool,
}

const WIDTH: usize = 108;
const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "1;31";

impl Show {
    pub(super) fn new(format: Format) -> Self {
        Self { format, colour: std::io::stdout().is_terminal() }
    }

    pub(super) fn scenario(&self, scenario: &Scenario) {
        match self.format {
            Format::Json => self.json(&json!({ "event": "scenario", "id": scenario.id, "title": scenario.title })),
            Format::Text => {
                self.line(&self.paint(BOLD, &format!("Scenario {}: {}", scenario.id, scenario.title)));
            }
        }
    }

    pub(super) fn step(&self, step: &Step) {
        match self.format {
            Format::Json => {
                self.json(&json!({ "event": "step", "id": step.id, "title": step.title, "lesson": step.lesson }));
            }
            Format::Text => {
                self.line("");
                self.line(&format!("  {} {}", self.paint(BOLD, step.id), self.paint(BOLD, step.title)));
                for line in wrapped(step.lesson, WIDTH - 5) {
                    self.line(&format!("     {}", self.paint(DIM, &line)));
                }
            }
        }
    }

    /// A step that is not part of `all` yet, and why.
    pub(super) fn left_out(&self, step: &Step, reason: &str) {
        match self.format {
            Format::Json => self.json(&json!({ "event": "left-out", "step": step.id, "reason": reason })),
            Format::Text => self.line(&format!("  {} {} (not part of this: {reason})", step.id, step.title)),
        }
    }

    pub(super) fn check(&self, step: &Step, check: &Check) {
        match self.format {
            Format::Json => {
                let mut row = json!(check);
                row["event"] = "check".into();
                row["step"] = step.id.into();
                self.json(&row);
            }
            Format::Text => {
                let mark = if check.ok { self.paint(GREEN, "ok  ") } else { self.paint(RED, "FAIL") };
                self.line(&format!("     {mark} {}", check.what));
                self.line(&format!("          expected  {}", check.expected));
                let came = if check.ok { check.came.clone() } else { self.paint(RED, &check.came) };
                self.line(&format!("          came      {came}"));
            }
        }
    }

    pub(super) fn note(&self, text: &str) {
        match self.format {
            Format::Json => self.json(&json!({ "event": "note", "text": text })),
            Format::Text => self.line(&format!("  {text}")),
        }
    }

    pub(super) fn end(&self, checks: usize, failed: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        match self.format {
            Format::Json => {
                self.json(&json!({ "event": "end", "checks": checks, "failed": failed, "seconds": seconds }));
            }
            Format::Text => {
                self.line("");
                let text = format!("{checks} expectations, {failed} not met, {seconds:.0} s");
                self.line(&self.paint(if failed == 0 { GREEN } else { RED }, &text));
            }
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn json(&self, value: &Value) {
        self.line(&value.to_string());
    }

    /// A closed pipe (`| head`) is no reason to leave namespaces behind by a panic.
    fn line(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}
