//! What a request's line in the access log costs, from its head to the worker's buffer, with the functions of the data path.

use super::announce;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version, request};
use mesh_agent::error::Flags;
use mesh_agent::snapshot::access_log::{AccessLogSettings, Encoding, Format};
use mesh_agent::snapshot::{PortKey, ServiceName};
use mesh_agent::telemetry::access_log::{AccessLog, Connected, Ended, Entry, How, Logger, cluster};
use mesh_agent::telemetry::trace::request_id;
use mesh_agent::time::Nanos;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LINES: usize = 200_000;
const ROUNDS: usize = 7;
/// Requests under way, as in the cell `unary-50x4`.
const LIVE: usize = 50;

/// Prints nanoseconds per line, the request's own making not among them.
///
/// # Errors
/// The log cannot be started.
pub(super) fn run() -> Result<()> {
    announce(&format!("{:<8}{:>8}", "format", "ns"))?;
    for (name, encoding) in [("text", Encoding::Text), ("json", Encoding::Json)] {
        announce(&format!("{name:<8}{:>8.0}", measure(encoding)?))?;
    }
    Ok(())
}

/// The median round.
fn measure(encoding: Encoding) -> Result<f64> {
    let log = Arc::new(AccessLog::default());
    let format = Arc::new(Format::parse(encoding, "")?);
    log.set(&AccessLogSettings { file: Some("/dev/null".into()), format }, None, false);
    let logger = Logger::new(log);
    let name = cluster("echo.bench.svc.cluster.local", &PortKey::new(ServiceName::new("bench", "echo"), 80).into());
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let (mut live, mut over, mut spent) =
            (VecDeque::with_capacity(LIVE + 1), Vec::with_capacity(LIVE), Duration::ZERO);
        // Made in runs, so that the clock is not what is measured.
        for run in 0..LINES / LIVE {
            let heads = (0..LIVE).map(|n| head((run * LIVE + n) as u128)).collect::<Result<Vec<_>>>()?;
            let begun = Instant::now();
            for (n, head) in heads.into_iter().enumerate() {
                live.push_back(begin(&logger, n, head, &name)?);
                if live.len() > LIVE {
                    over.extend(live.pop_front().map(end));
                }
            }
            spent += begun.elapsed();
            over.clear();
        }
        *round = spent.as_nanos() as f64 / LINES as f64;
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

/// As a gRPC client sends it: its text is shared with the buffer in which it came.
fn head(random: u128) -> Result<request::Parts> {
    let shared = |text: &'static str| HeaderValue::from_maybe_shared(Bytes::from(text.as_bytes().to_vec()));
    let mut request = Request::post("http://echo.bench/bench.Echo/Unary").version(Version::HTTP_2).body(())?;
    let headers = request.headers_mut();
    headers.insert("content-type", shared("application/grpc")?);
    headers.insert("te", shared("trailers")?);
    headers.insert("user-agent", shared("grpc-go/1.76.0")?);
    request_id::give(headers, random, request_id::Reason::None);
    Ok(request.into_parts().0)
}

type Live = (request::Parts, Entry);

fn begin(logger: &Logger, n: usize, head: request::Parts, name: &Rc<str>) -> Result<Live> {
    let of = |ip: [u8; 4], port: usize| SocketAddr::from((ip, port as u16));
    let (client, endpoint) = (of([10, 0, 0, 1], 40_000 + n % 4), of([10, 0, 0, 2], 8080 + n % 2));
    let mut entry =
        logger.entry(client, of([10, 96, 0, 7], 80), n as u64 % 4, Nanos::now()).context("the log is off")?;
    entry.head(&head);
    entry.cluster(name);
    entry.asks(endpoint);
    entry.answered(&HeaderMap::new());
    entry.connected(Connected { endpoint, local: Some(of([10, 0, 0, 3], 50_000 + n % 2)) });
    Ok((head, entry))
}

/// Gives the request back: its end is not the line's.
fn end((head, entry): Live) -> request::Parts {
    let how = How {
        code: Some(200),
        grpc_status: Some(0),
        flags: Flags::NONE,
        details: "via_upstream".into(),
        attempts: 1,
        route: Some("default".into()),
    };
    let time = Some(Duration::from_micros(300));
    entry.end(&Ended {
        how,
        duration: Duration::from_micros(400),
        answered: time,
        upstream: time,
        received: 133,
        sent: 133,
        tcp: None,
    });
    head
}
