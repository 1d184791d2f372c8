//! The sockets: admin over a unix socket, metrics over TCP; both on the control thread's runtime.

use super::routes::{self, Body, MAX_BODY};
use super::{Answer, Asker, Question, Refusal, SOCKET_NAME};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A client that has not sent its request by then is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failed accept (out of file descriptors): accept does not fail faster than this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections to the metrics port from elsewhere at a time: every pod can reach it, and must not take the agent's file
/// descriptors, nor the probes' turn.
const MOST_STRANGERS: usize = 32;

/// A connection from elsewhere that lasts longer does not read its answer; one that idles ends after [`HEAD_TIMEOUT`].
const STRANGER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot use run directory {}: {source}\n  name another one with --run-dir", path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("run directory {} belongs to user {owner}, not to user {own}\n  name another one with --run-dir", path.display())]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("another agent answers at {}\n  stop it first, or give this one its own --run-dir", path.display())]
    Taken { path: PathBuf },
    #[error("cannot listen on {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
}

/// Makes the run directory (0700) and the socket (0600) in it. A socket that a dead agent left is replaced.
///
/// # Errors
/// When the directory cannot be made or is another user's, or another agent answers on the socket.
pub fn bind(run_dir: &Path) -> Result<UnixListener, AdminError> {
    let unusable = |source| AdminError::RunDir { path: run_dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(unusable)?;
    let (owner, own) = (fs::metadata(run_dir).map_err(unusable)?.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        return Err(AdminError::Owner { path: run_dir.to_owned(), owner, own });
    }
    fs::set_permissions(run_dir, Permissions::from_mode(0o700)).map_err(unusable)?;
    let path = run_dir.join(SOCKET_NAME);
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(AdminError::Taken { path });
    }
    let failed = |source| AdminError::Socket { path: path.clone(), source };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Between bind and chmod the 0700 directory keeps others out.
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers on the admin socket until cancelled.
pub async fn serve(listener: UnixListener, asker: Asker) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if allowed(&stream) => {
                tokio::spawn(connection(stream, asker.clone(), admin));
            }
            Ok(_) => tracing::warn!("admin socket: a peer that is neither the agent's user nor root was turned away"),
            Err(error) => {
                tracing::warn!(%error, "admin socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers `GET /metrics`, `/healthz` and `/readyz` on TCP until cancelled. Everything else of the admin socket stays out
/// of reach here.
pub async fn serve_metrics(listener: TcpListener, asker: Asker) {
    serve_metrics_to(listener, asker, MOST_STRANGERS, |peer| peer.to_canonical().is_loopback()).await;
}

/// `own`: peers that are always let in, the kubelet's probes among them. Of the others `most` at a time.
pub(super) async fn serve_metrics_to(listener: TcpListener, asker: Asker, most: usize, own: fn(IpAddr) -> bool) {
    let strangers = Arc::new(Semaphore::new(most));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if own(peer.ip()) => {
                tokio::spawn(connection(stream, asker.clone(), metrics));
            }
            Ok((stream, _)) => {
                // Closed at once where there are too many.
                let Ok(permit) = Arc::clone(&strangers).try_acquire_owned() else { continue };
                let answered = timeout(STRANGER_TIMEOUT, connection(stream, asker.clone(), metrics));
                tokio::spawn(async move {
                    let _ = answered.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics endpoint: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// SO_PEERCRED: the kernel's word for who connected (unix(7)).
fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn connection<S, F>(stream: S, asker: Asker, answer: fn(Request<Incoming>, Asker) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answer = answer(request, asker.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn admin(request: Request<Incoming>, asker: Asker) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return routes::failure(StatusCode::PAYLOAD_TOO_LARGE, "the body did not arrive, or is too large");
    };
    match routes::question(&head.method, head.uri.path(), routes::format(&head.headers), &body.to_bytes()) {
        Ok(question) => routes::answer(asker.ask(question).await),
        Err(wrong) => routes::wrong(wrong),
    }
}

async fn metrics(request: Request<Incoming>, asker: Asker) -> Response<Body> {
    match request.uri().path() {
        "/metrics" => routes::answer(asker.ask(Question::Metrics(routes::format(request.headers()))).await),
        "/readyz" => routes::answer(asker.ask(Question::Ready).await),
        // That the control loop answers at all is what is asked.
        "/healthz" => match asker.ask(Question::Ready).await {
            Err(Refusal::Failed(why)) => routes::failure(StatusCode::INTERNAL_SERVER_ERROR, &why),
            Ok(_) | Err(_) => routes::answer(Ok(Answer::Text("alive\n".into()))),
        },
        _ => routes::failure(
            StatusCode::NOT_FOUND,
            "here are /metrics, /healthz, /readyz; the rest is on the admin socket",
        ),
    }
}
