//! JSON lines on stdout: what an app has to say, for a person or for the lab that started it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One thing that happened in an app. Serialised as an object whose `event` field is the variant in kebab-case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A port accepts connections from now on.
    Listening { pod: String, port: String, protocol: String, address: SocketAddr },
    /// A connection was accepted; `id` counts the process's connections from 1.
    Opened { pod: String, id: u64, local: SocketAddr, peer: SocketAddr },
    /// That connection is gone.
    Closed { pod: String, id: u64 },
    /// SIGTERM or SIGINT came: no new connections, calls in flight are finished.
    Draining { pod: String },
    /// The app leaves after `calls` calls.
    Stopped { pod: String, calls: u64 },
    /// Something failed that the app survives.
    Failed { pod: String, what: String, error: String },
}

/// Writes `record` as one line. A reader that went away is no reason for an app to die.
pub fn emit<T: Serialize>(record: &T) {
    #[derive(Serialize)]
    struct Stamped<'a, T> {
        unix_ms: u128,
        #[serde(flatten)]
        record: &'a T,
    }
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let Ok(mut line) = serde_json::to_vec(&Stamped { unix_ms, record }) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    if out.write_all(&line).is_ok() {
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_named_by_its_variant() {
        let event = Event::Stopped { pod: "p".into(), calls: 3 };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"event":"stopped","pod":"p","calls":3}"#);
    }
}
