//! The socket on which plugins ask: `cni.sock` in the run directory, root's alone, one question a connection.

use super::ANSWER;
use mesh_cni::wire::{self, Answer, Ask};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// After a failed accept (out of file descriptors): accept does not fail faster than this.
const PAUSE: Duration = Duration::from_millis(100);
/// A plugin that has not asked by then never will.
const HEAD: Duration = Duration::from_secs(2);

/// A question on its way to the control loop.
#[derive(Debug)]
pub struct Request {
    pub ask: Ask,
    /// The sandbox's network namespace, of whoever joins.
    pub netns: Option<OwnedFd>,
    /// Dropped: the agent ends; the plugin asks its successor.
    pub reply: oneshot::Sender<Answer>,
}

/// The admin socket is bound before it: there is no other agent here, and the folder is root's alone.
///
/// # Errors
/// As `unlink(2)`, `bind(2)` and `chmod(2)`.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let path = run_dir.join(wire::SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until it is cancelled.
pub async fn serve(listener: UnixListener, control: mpsc::Sender<Request>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(&stream, &control).await {
                        tracing::debug!(%error, "a CNI plugin's question");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the CNI socket");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: &UnixStream, control: &mpsc::Sender<Request>) -> io::Result<()> {
    let (line, netns) = timeout(HEAD, question(stream)).await??;
    let ask: Ask = serde_json::from_slice(&line)?;
    let (reply, answer) = oneshot::channel();
    control.send(Request { ask, netns, reply }).await.map_err(io::Error::other)?;
    // The control loop answers in time, unless it is busy with something large.
    let late = || Answer::Late("the agent is busy".into());
    let answer = match timeout(ANSWER + HEAD / 4, answer).await {
        Ok(answer) => answer.map_err(io::Error::other)?,
        Err(_) => late(),
    };
    let line = wire::line(&answer);
    stream.async_io(Interest::WRITABLE, || wire::send(stream.as_fd(), &line, None)).await
}

async fn question(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut line, mut netns) = (Vec::new(), None);
    while !line.ends_with(b"\n") {
        let read = stream.async_io(Interest::READABLE, || wire::receive(stream.as_fd(), &mut line, &mut netns));
        if read.await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((line, netns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_cni::wire::Attachment;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::MetadataExt as _;

    fn pod() -> Attachment {
        Attachment { container: "c1".into(), namespace: "shop".into(), name: "web".into(), uid: "u".into() }
    }

    #[tokio::test]
    async fn a_plugin_is_heard_with_its_namespace_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(dir.path()).unwrap();
        let path = dir.path().join(wire::SOCKET);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (control, mut requests) = mpsc::channel(4);
        let serving = tokio::spawn(serve(listener, control));
        let plugin = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
                let netns = fs::File::open("/proc/self/ns/net").unwrap();
                wire::send(&socket, &wire::line(&Ask::Join(pod())), Some(netns.as_fd())).unwrap();
                let mut said = String::new();
                socket.read_to_string(&mut said).unwrap();
                said
            }
        });
        let request = requests.recv().await.unwrap();
        assert_eq!(request.ask, Ask::Join(pod()));
        let inode = fs::File::from(request.netns.unwrap()).metadata().unwrap().ino();
        assert_eq!(inode, fs::metadata("/proc/self/ns/net").unwrap().ino());
        request.reply.send(Answer::In).unwrap();
        assert_eq!(plugin.await.unwrap().as_bytes(), wire::line(&Answer::In));

        // What is no question is not answered, and harms nobody.
        let junk = tokio::task::spawn_blocking(move || {
            let mut said = Vec::new();
            for bytes in [&b"{\"join\":1}\n"[..], b"\xff\n", &[b'x'; 2 * wire::MAX_LINE]] {
                let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
                // The agent may hang up before it has read all.
                let _ = socket.write_all(bytes);
                let _ = socket.read_to_end(&mut said);
            }
            said
        });
        assert!(junk.await.unwrap().is_empty());
        assert!(!serving.is_finished());
        serving.abort();
    }
}
