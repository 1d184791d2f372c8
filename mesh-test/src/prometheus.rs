//! A real Prometheus on a lab node, with the configuration that users are given.

use crate::lab::{Lab, Process};
use crate::net::Netns;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ADDRESS: &str = "127.0.0.1:9090";

/// Scrapes the agent of its node every second; ends when dropped.
#[derive(Debug)]
pub struct Prometheus<'a> {
    node: &'a Netns,
    process: Process,
    _data: TempDir,
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    /// A label's value; a label that is not there is empty, as it is to Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl<'a> Prometheus<'a> {
    /// `deploy`: the folder with `prometheus.yml` and the rules it names. Returns when it answers.
    pub fn start(lab: &'a Lab, node: usize, deploy: &Path) -> Result<Self> {
        let node = lab.node_netns(node);
        let data = TempDir::new()?;
        for entry in fs::read_dir(deploy).with_context(|| deploy.display().to_string())? {
            let from = entry?.path();
            let text = fs::read_to_string(&from)?.replace("_interval: 15s", "_interval: 1s");
            fs::write(data.path().join(from.file_name().unwrap_or_default()), text)?;
        }
        let log = data.path().join("log");
        let (output, errors) = (File::create(&log)?, File::options().append(true).open(&log)?);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", data.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("tsdb").display()))
            .args([format!("--web.listen-address={ADDRESS}"), "--enable-feature=exemplar-storage".to_owned()])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let child = node.run(|| command.spawn())?.context("prometheus: install it with `cargo xtask peers`")?;
        let mut prometheus = Self { node, process: Process::new(child, log), _data: data };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !prometheus.query("up").is_ok_and(|up| up.iter().any(|target| target.value == 1.0)) {
            if prometheus.process.ended().is_some() || Instant::now() > deadline {
                bail!("prometheus does not scrape: {}", prometheus.process.output());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(prometheus)
    }

    /// An instant query.
    ///
    /// # Errors
    /// What Prometheus says of a query it cannot answer.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let form = format!("query={}", encoded(expression));
        let text = self.node.run(|| post("/api/v1/query", &form))?.context("prometheus")?;
        let body = text.split_once("\r\n\r\n").context("no body")?.1;
        let answer: Value = serde_json::from_str(body).context("prometheus' answer")?;
        ensure!(answer["status"] == "success", "{expression}: {}", answer["error"]);
        answer["data"]["result"].as_array().context("not a vector")?.iter().map(sample).collect()
    }

    /// Asks until `so` holds of the answer, which it returns; after `limit` the last answer is the error.
    pub fn query_until(
        &self,
        expression: &str,
        limit: Duration,
        so: impl Fn(&[Sample]) -> bool,
    ) -> Result<Vec<Sample>> {
        let deadline = Instant::now() + limit;
        loop {
            let samples = self.query(expression)?;
            if so(&samples) {
                return Ok(samples);
            }
            ensure!(Instant::now() < deadline, "{expression}: {samples:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// HTTP/1.0, so that the answer ends with the connection.
fn post(path: &str, form: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nhost: {ADDRESS}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// RFC 3986 §2.1: everything but letters and digits.
fn encoded(text: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}

/// `{"metric": {…}, "value": [seconds, "text"]}`, as Prometheus' HTTP API has it.
fn sample(row: &Value) -> Result<Sample> {
    let labels = row["metric"].as_object().context("no metric")?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let value = row["value"][1].as_str().context("no value")?;
    Ok(Sample { labels: labels.collect(), value: value.parse().with_context(|| format!("value {value}"))? })
}
