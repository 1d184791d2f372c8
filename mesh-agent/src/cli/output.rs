//! How subcommands answer: `-o table|json|yaml`, colour where a person is looking.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For scripts: field names are stable
    Json,
    Yaml,
    /// Graphviz, of `graph` only
    Dot,
}

/// What a piece of text means; `Paint` decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

/// Whether escape codes are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// On when stdout is a terminal and `NO_COLOR` (no-color.org) is unset or empty.
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: io::stdout().is_terminal() && !refused && !dumb }
    }

    #[cfg(test)]
    pub(crate) fn on() -> Self {
        Self { on: true }
    }

    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self { on: false }
    }

    pub(crate) fn text(self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Plain => return text.to_owned(),
        };
        if self.on && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Prints `value` as asked; `table` is only called for people.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(Paint) -> String) -> Result<()> {
    let text = match format {
        Format::Table => table(Paint::for_stdout()),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value)?,
        // `main` has refused it.
        Format::Dot => anyhow::bail!("only `graph` has -o dot"),
    };
    say(&text)
}

/// Writes to stdout; a reader that went away (`| head`) is not an error.
pub(crate) fn say(text: &str) -> Result<()> {
    try_say(text).map(drop)
}

/// As [`say`]; false: the reader went away.
pub(crate) fn try_say(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

/// Writes one line to stderr; if even that fails there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
