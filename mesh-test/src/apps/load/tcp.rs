//! TCP calls: a line out, a line back.

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::client::{Answer, CallArgs, Failure};
use crate::apps::dial::Dialer;

/// A connection; calls wait for one another.
#[derive(Debug, Default)]
pub(super) struct One(Mutex<Option<BufStream<TcpStream>>>);

impl One {
    pub(super) async fn call(
        &self,
        args: &CallArgs,
        dialer: &Dialer,
        host: &str,
        port: u16,
    ) -> Result<Answer, Failure> {
        let mut held = self.0.lock().await;
        // Taken while in use: an answer that comes after its call's timeout must not be the next call's.
        let mut stream = match held.take() {
            Some(stream) => stream,
            None => BufStream::new(dialer.connect(host, port).await.map_err(|error| Failure::new("Connect", error))?),
        };
        let line = exchange(&mut stream, args).await.map_err(|error| Failure::new("Broken", error))?;
        *held = Some(stream);
        let replica = line.split(' ').next().unwrap_or_default().to_owned();
        Ok(Answer { replica, messages: 1, last: json!({ "line": line }) })
    }
}

async fn exchange(stream: &mut BufStream<TcpStream>, args: &CallArgs) -> std::io::Result<String> {
    let mut out = args.message.clone().into_bytes();
    out.resize(out.len() + args.bytes, b'.');
    out.push(b'\n');
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection was closed"));
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}
