//! Stand-ins for two well-known demos, Istio's Bookinfo and Weaveworks' Sock Shop: the same services, paths, calls among
//! each other and versions, as one table (`table`). Answers name the service, version and pod that made them.

mod bookinfo;
mod call;
mod table;
#[cfg(test)]
mod tests;

use super::SERVED_BY;
use super::dial::Dialer;
use super::event::{Event, emit};
use super::listen::{Shutdown, announce};
use super::pod::{Pod, PodArgs};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use clap::Args;
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

use call::Heard;
use table::{Answer, Service};

pub(crate) use table::behind_image;

/// Forms are short.
const MOST_FORM: usize = 16 * 1024;

/// Arguments of `mesh-app demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Which service to be.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Service::names()))]
    service: String,
    /// Its version; reviews shows stars by it.
    #[arg(long, default_value = "v1")]
    version: String,
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Answer everything but /health with this status.
    #[arg(long)]
    fail: Option<u16>,
    /// Milliseconds before each answer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    #[command(flatten)]
    pod: PodArgs,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The port is taken, or `--fail` is no status.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let pod = Pod::from(args.pod.clone());
    let shutdown = Shutdown::on_signals(&pod)?;
    let demo = Demo::new(&args, &pod)?;
    let listener = announce(&pod, "http", "http", args.port)?;
    demo.serve(listener, shutdown).await?;
    emit(&Event::Stopped { pod: pod.name.to_string(), calls: pod.calls() });
    Ok(())
}

/// One service of a demo.
#[derive(Clone)]
struct Demo {
    service: &'static Service,
    version: String,
    fail: Option<StatusCode>,
    delay: Duration,
    pod: Pod,
    dialer: Dialer,
}

/// What a request asks for, as far as answers and calls need it.
struct Asked {
    path: String,
    /// The first number in the path.
    id: u64,
    /// Who is signed in; empty: nobody.
    user: String,
    form: String,
    hand_on: HeaderMap,
}

impl Demo {
    fn new(args: &DemoArgs, pod: &Pod) -> anyhow::Result<Self> {
        let service = Service::named(&args.service).ok_or_else(|| anyhow::anyhow!("no service {}", args.service))?;
        Ok(Self {
            service,
            version: args.version.clone(),
            fail: args.fail.map(StatusCode::from_u16).transpose()?,
            delay: Duration::from_millis(args.delay_ms),
            pod: pod.clone(),
            dialer: Dialer::default(),
        })
    }

    async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
        let router = Router::new().fallback(serve_one).with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(shutdown.wait()).await
    }

    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        if path != "/health" {
            tokio::time::sleep(self.delay).await;
            if let Some(status) = self.fail {
                return (status, self.who(&path, &[])).into_response();
            }
        }
        let Some(route) = self.service.route(&path) else {
            let known = matches!(path.as_str(), "/" | "/health");
            return (if known { StatusCode::OK } else { StatusCode::NOT_FOUND }, self.who(&path, &[])).into_response();
        };
        let asked = match Asked::read(request).await {
            Ok(asked) => asked,
            Err(status) => return status.into_response(),
        };
        let mut heard = Vec::new();
        for call in route.calls_of(&self.version) {
            heard.push(call::call(call, &self.dialer, &asked).await);
        }
        match route.answer {
            Answer::Bookinfo(part) => bookinfo::answer(part, self, &asked, &heard),
            Answer::Json => {
                let good = heard.iter().all(|heard| heard.good().is_some());
                let status = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
                (status, self.who(&path, &heard)).into_response()
            }
        }
    }

    fn who(&self, path: &str, calls: &[Heard]) -> Json<serde_json::Value> {
        let (service, pod) = (self.service.name, &*self.pod.name);
        let served = self.pod.calls();
        Json(
            json!({ "service": service, "version": self.version, "pod": pod, "path": path, "calls": calls, "served": served }),
        )
    }
}

async fn serve_one(State(demo): State<Demo>, request: Request) -> Response {
    // Probes and questions for the count are no work.
    if request.uri().path() != "/health" {
        demo.pod.count_call();
    }
    let mut response = demo.answer(request).await;
    if let Ok(name) = HeaderValue::from_str(&demo.pod.name) {
        response.headers_mut().insert(SERVED_BY, name);
    }
    response
}

impl Asked {
    async fn read(request: Request<Body>) -> Result<Self, StatusCode> {
        let (head, body) = request.into_parts();
        let form = to_bytes(body, MOST_FORM).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        let path = head.uri.path().to_owned();
        let cookies = head.headers.get(header::COOKIE).and_then(|cookies| cookies.to_str().ok()).unwrap_or_default();
        let user = cookies.split(';').find_map(|pair| pair.trim().strip_prefix("user=")).map(plain).unwrap_or_default();
        Ok(Self {
            id: path.split('/').find_map(|part| part.parse().ok()).unwrap_or(0),
            hand_on: call::handed_on(&head.headers, &user),
            form: String::from_utf8_lossy(&form).into_owned(),
            path,
            user,
        })
    }

    /// A field of an `application/x-www-form-urlencoded` body; names here need no escapes.
    fn form(&self, field: &str) -> String {
        let pairs = self.form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == field).map(|(_, value)| plain(value)).next().unwrap_or_default()
    }
}

/// Letters, digits and `._-` of a user's name: it ends up in headers and HTML.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect()
}
