//! Questions over unix sockets: to the API server through `kubectl proxy`, so that thousands of objects need no program
//! each, and to an agent's admin socket.

use super::{Cluster, eventually};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// How often what a busy server turns away is sent again.
const TRIES: usize = 20;

/// The API server as its kubeconfig's user, for as long as this lives.
pub struct ApiProxy {
    child: Child,
    dir: TempDir,
}

impl ApiProxy {
    pub fn start(cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("--unix-socket={}", dir.path().join("api").display());
        let mut command = cluster.kubectl_command(&["proxy", &socket]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let proxy = Self { child, dir };
        eventually("kubectl proxy", || match ask(&proxy.socket(), "GET", "/readyz", None) {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        proxy
    }

    /// A JSON answer; what fails for a moment (429, 5xx, a broken connection) is tried again.
    ///
    /// # Panics
    /// When the server refuses for good. That what is made is there already is no refusal: a former try made it.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut last = String::new();
        for _ in 0..TRIES {
            match ask(&self.socket(), method, path, body) {
                Ok((200..=299 | 409, said)) => match serde_json::from_str(&said) {
                    Ok(said) => return said,
                    Err(error) => last = format!("{error}: {said}"),
                },
                Ok((code @ (429 | 500..=599), said)) => last = format!("{code}: {said}"),
                Ok((code, said)) => panic!("{method} {path}: {code}: {said}"),
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(PAUSE);
        }
        panic!("{method} {path}, {TRIES} times: {last}");
    }

    pub fn text(&self, path: &str) -> String {
        let (code, said) = ask(&self.socket(), "GET", path, None).expect("an answer");
        assert_eq!(code, 200, "{said}");
        said
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api")
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body. HTTP/1.0: the whole answer, then the connection ends.
pub fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, String)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((code, body.to_owned()))
}
