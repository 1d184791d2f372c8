//! One story, three ways to see it: a terminal view, plain lines, JSON lines.

use crate::lab::Lab;
use crate::tui::{Input, Key, Keys, Plain, Terminal, View, json};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// How to show a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A view on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Lines
    Text,
    /// A JSON document per line
    Json,
}

/// Fills a [`View`] and gives it to whoever watches.
pub(super) struct Show {
    pub(super) view: View,
    format: Format,
    began: Instant,
    plain: Plain,
    terminal: Option<(Terminal, Keys)>,
    told: Option<Instant>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Show {
    /// `interactive`: a person may press keys.
    pub(super) fn new(format: Format, interactive: bool) -> Self {
        let wanted = format == Format::Auto && interactive && Terminal::is_available();
        let terminal = wanted.then(Terminal::open).and_then(Result::ok).map(|terminal| (terminal, Keys::read()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
        Self {
            view: View::default(),
            format,
            began: Instant::now(),
            plain: Plain::default(),
            terminal,
            told: None,
            runtime,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub(super) fn lab(&mut self, lab: &Lab) {
        self.event(&json!({ "event": "lab", "lab": lab.id(), "directory": lab.layout().root() }));
        self.say(&format!("lab {} in {}", lab.id(), lab.layout().root().display()));
    }

    /// Everything asked for is up.
    pub(super) fn up(&mut self, lab: &Lab) {
        let pods: Vec<Value> = lab
            .all_pods()
            .iter()
            .map(|pod| json!({ "pod": format!("{}/{}", pod.namespace(), pod.name()), "ips": pod.ips().both(), "enter": pod.netns().hint() }))
            .collect();
        self.event(&json!({ "event": "up", "pods": pods }));
    }

    /// A line of the log.
    pub(super) fn say(&mut self, text: &str) {
        self.view.elapsed_ms = self.elapsed();
        self.view.say(text);
        if self.format == Format::Json {
            self.event(&json!({ "event": "log", "text": text }));
        }
    }

    /// Draws now; `settled`: the numbers are worth a line of text.
    pub(super) fn draw(&mut self, settled: bool) {
        self.view.elapsed_ms = self.elapsed();
        if let Some((terminal, _)) = &mut self.terminal {
            // A terminal that is gone sends SIGHUP, which ends the run.
            let _ = terminal.show(&self.view);
            return;
        }
        let due = self.told.is_none_or(|told| told.elapsed() > Duration::from_secs(2));
        if !settled && !due {
            return;
        }
        self.told = Some(Instant::now());
        match self.format {
            Format::Json => print(&json(&self.view)),
            Format::Auto | Format::Text => self.plain.lines(&self.view).iter().for_each(|line| print(line)),
        }
    }

    /// A JSON document of its own, for scripts.
    pub(super) fn event(&self, event: &Value) {
        if self.format == Format::Json {
            print(&event.to_string());
        }
    }

    /// A key pressed within `wait`.
    pub(super) fn key(&mut self, wait: Duration) -> Option<Key> {
        let (Some((_, keys)), Some(runtime)) = (&mut self.terminal, &self.runtime) else {
            std::thread::sleep(wait);
            return None;
        };
        match runtime.block_on(async { tokio::time::timeout(wait, keys.next()).await }) {
            Ok(Some(Input::Key(key))) => Some(key),
            _ => None,
        }
    }

    /// Gives the terminal back and says how it ended.
    pub(super) fn end(&mut self, verdicts: &[(bool, String)]) {
        self.terminal = None;
        for (ok, text) in verdicts {
            self.event(&json!({ "event": "verdict", "ok": ok, "what": text }));
            if self.format != Format::Json {
                print(&format!("{} {text}", if *ok { "  ok   " } else { "  FAIL " }));
            }
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A closed pipe (`| head`) is no reason to leave namespaces behind by a panic.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
