//! Logs to stderr, with a filter that can be changed while the agent runs.

use super::LogFormat;
use anyhow::{Context, Result};
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The Kubernetes client logs each failed attempt as an error of its own; the source says once what is the matter.
const QUIET: &str = "kube_client::client::builder=off";

/// Handle on the filter.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was asked for: `EnvFilter` prints its directives in another order.
    text: Arc<Mutex<String>>,
}

impl LogControl {
    pub fn filter(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    /// With what is wrong about the filter; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter)?;
        self.handle.reload(parsed).map_err(|error| error.to_string())?;
        filter.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter is malformed, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl> {
    let parsed = parse(filter).map_err(anyhow::Error::msg).context("--log")?;
    let (layer, handle) = reload::Layer::new(parsed);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(layer);
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    Ok(LogControl { handle, text: Arc::new(Mutex::new(filter.to_owned())) })
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| {
        format!("`{filter}` is no log filter ({error}): write LEVEL or MODULE=LEVEL, separated by commas")
    })
}
