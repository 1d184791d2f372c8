//! `POST /tap`: what a tap sees, as lines.

use crate::admin::view::{TapLine, Tapped, TappedPeer};
use crate::admin::{Answer, Lines, Refusal};
use crate::snapshot::Workload;
use crate::telemetry::tap::{Seen, TapQuestion, Taps, Watching, WrongTap};
use bytes::Bytes;
use futures_util::stream::unfold;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Requests that are written at once.
const BATCH: usize = 64;
/// How often whoever looks is told of what it missed.
const TELL: Duration = Duration::from_secs(1);

/// A tap and how far it came.
struct Progress {
    watching: Watching,
    /// Requests that may still be shown.
    left: u64,
    /// Of those that were not shown, what was told.
    told: u64,
}

pub(super) fn open(taps: &Arc<Taps>, question: &TapQuestion) -> Result<Answer, Refusal> {
    let watching = taps.open(question).map_err(|wrong| match wrong {
        WrongTap::TooMany => Refusal::Unavailable(wrong.to_string()),
        wrong => Refusal::Invalid(wrong.to_string()),
    })?;
    let progress = Progress { watching, left: question.max.unwrap_or(u64::MAX), told: 0 };
    Ok(Answer::Lines(Lines::new(unfold(progress, |mut progress| async {
        let lines = progress.next().await?;
        Some((lines, progress))
    }))))
}

impl Progress {
    /// The next lines; `None`: there are no more.
    async fn next(&mut self) -> Option<Bytes> {
        let most = BATCH.min(usize::try_from(self.left).unwrap_or(BATCH));
        let mut seen = Vec::with_capacity(most);
        let mut lines = Vec::new();
        while lines.is_empty() {
            if self.left == 0 {
                return None;
            }
            // Nothing is lost where time runs out: what has come stays in the channel, or is in `seen`.
            if timeout(TELL, self.watching.next(&mut seen, most)).await == Ok(false) {
                return None;
            }
            self.left -= seen.len() as u64;
            seen.drain(..).for_each(|seen| write(&mut lines, &TapLine::Request(Box::new(tapped(&seen)))));
            let dropped = self.watching.dropped();
            if dropped > self.told {
                self.told = dropped;
                write(&mut lines, &TapLine::Dropped(dropped));
            }
        }
        Some(lines.into())
    }
}

fn write(lines: &mut Vec<u8>, line: &TapLine) {
    // Strings and numbers: nothing that could not be said.
    if serde_json::to_writer(&mut *lines, line).is_ok() {
        lines.push(b'\n');
    }
}

fn tapped(seen: &Seen) -> Tapped {
    let (ended, asked, callee) = (&seen.ended, seen.asked.as_ref(), &seen.callee);
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let of_asked = |field: fn(&crate::telemetry::tap::Asked) -> &str| asked.map(field).unwrap_or_default().to_owned();
    Tapped {
        time: humantime::format_rfc3339_millis(seen.began).to_string(),
        source: peer(seen.source.as_deref(), Some(seen.client)),
        destination: peer(seen.destination.as_deref(), seen.endpoint),
        service: match callee.undeclared {
            true => callee.name.to_string(),
            false => format!("{}/{}", callee.namespace, callee.name),
        },
        protocol: match (asked, seen.grpc) {
            (None, _) => "tcp",
            (Some(_), true) => "grpc",
            (Some(_), false) => "http",
        }
        .to_owned(),
        version: of_asked(|asked| asked.version),
        method: of_asked(|asked| &asked.method),
        host: of_asked(|asked| &asked.host),
        path: of_asked(|asked| &asked.path),
        code: ended.how.code,
        grpc_status: ended.how.grpc_status,
        flags: ended.how.flags.iter().map(|flag| flag.as_str().to_owned()).collect(),
        details: ended.how.details.to_string(),
        route: ended.how.route.as_deref().unwrap_or_default().to_owned(),
        duration_ms: ms(ended.duration),
        agent_ms: ended.answered.zip(ended.upstream).map(|(whole, upstream)| ms(whole.saturating_sub(upstream))),
        upstream_ms: ended.upstream.map(ms),
        request_bytes: ended.received,
        response_bytes: ended.sent,
        attempts: ended.how.attempts,
        connection: seen.connection,
        srtt_us: ended.tcp.map(|tcp| tcp.srtt_us),
        retransmits: ended.tcp.map(|tcp| tcp.retransmits),
        verdict: seen.kernel.map(|kernel| kernel.verdict.label().to_owned()),
        redirected_bytes: seen.kernel.and_then(|kernel| kernel.redirected_bytes),
        trace_id: seen.trace.map(|trace| format!("{trace:032x}")),
    }
}

fn peer(workload: Option<&Workload>, address: Option<SocketAddr>) -> TappedPeer {
    let Some(of) = workload else { return TappedPeer { address, ..TappedPeer::default() } };
    let text = |text: &Arc<str>| text.to_string();
    TappedPeer { namespace: text(&of.key.namespace), pod: text(&of.key.name), workload: text(&of.owner.name), address }
}
