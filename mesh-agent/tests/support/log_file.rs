//! An access log of a test's own.

use super::soon;
use mesh_agent::snapshot::access_log::{AccessLogSettings, Encoding, Format};
use mesh_agent::telemetry::access_log::AccessLog;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub struct LogFile {
    dir: TempDir,
}

impl LogFile {
    /// `format`: of a JSON line; empty for Istio's.
    pub fn of(log: &AccessLog, format: &str) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        log_to(log, &file.path(), Encoding::Json, format);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }

    /// Exactly `count` lines, once they are there. Each is a request or connection that metrics know of too.
    pub async fn lines(&self, count: usize) -> Vec<Value> {
        let read = || std::fs::read_to_string(self.path()).unwrap_or_default();
        soon("the lines", async {
            while read().lines().count() < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

pub fn log_to(log: &AccessLog, file: &Path, encoding: Encoding, format: &str) {
    let format = Arc::new(Format::parse(encoding, format).unwrap());
    log.set(&AccessLogSettings { file: Some(file.to_str().unwrap().into()), format }, None, false);
}

/// The line says all of this.
#[track_caller]
pub fn says(line: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key} of {line:#}");
    }
}
