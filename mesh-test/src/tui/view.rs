//! The plain data of a view.

use std::collections::VecDeque;

use serde::Serialize;

use super::keys::Key;

/// Log lines kept; more than any terminal shows at once.
const LOG_LIMIT: usize = 200;

/// Everything a run has to show at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    /// Milliseconds since the run began.
    pub elapsed_ms: u64,
    /// The step of the story, from 1, and how many there are; 0 of 0 when there is no story.
    pub step: u32,
    pub steps: u32,
    /// What happens in this step, a few words.
    pub title: String,
    /// What it teaches, two or three sentences.
    pub lesson: String,
    /// Whether the pods are in the mesh.
    pub enrolled: bool,
    /// Replicas of the server, in a stable order; those that are gone stay while their calls matter.
    pub replicas: Vec<Replica>,
    pub client: Client,
    pub kernel: Kernel,
    pub errors: Vec<Failure>,
    pub log: Log,
    /// Keys that do something now.
    pub keys: Vec<Key>,
}

/// One replica of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Replica {
    pub pod: String,
    pub node: String,
    pub state: State,
    /// Calls answered in this step.
    pub calls: u64,
    /// Calls a second at the moment.
    pub rate: f64,
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    #[default]
    Starting,
    Ready,
    /// Out of the Service, finishes its calls.
    Stopping,
    Killed,
    Gone,
}

/// The client and its calls in this step.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Client {
    pub pod: String,
    pub target: String,
    /// Connections the client opened since its start: the story's point is that this stays 1.
    pub connections: u64,
    pub calls: u64,
    pub failed: u64,
    pub rate: f64,
    pub p50_us: u64,
    pub p99_us: u64,
}

/// The kernel's counters since the run began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Kernel {
    /// Which hooks are in use and why not more; empty while there is no agent.
    pub tier: String,
    /// Connections given to the in-pod agent.
    pub redirected: u64,
    /// Opaque connections whose endpoint the connect hook chose: they never enter user space.
    pub placed: u64,
    /// Connections left untouched.
    pub passed: u64,
    /// Connections refused.
    pub denied: u64,
    /// Bytes that sk_msg moved from socket to socket, past TCP/IP.
    pub sk_msg_bytes: u64,
    /// Messages it moved: each one is a way down and up the stack saved.
    pub sk_msg_messages: u64,
}

/// Failed calls of one code in this step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub code: String,
    pub count: u64,
    /// The last message seen with this code.
    pub message: String,
}

/// The last lines of what happened, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Log {
    lines: VecDeque<LogLine>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Counts the lines of a run from 1, also those that are no longer kept.
    pub number: u64,
    pub at_ms: u64,
    pub text: String,
}

impl View {
    /// A replica's part of all calls answered, 0 to 1; 0 when there are none.
    pub fn share(&self, replica: &Replica) -> f64 {
        let all: u64 = self.replicas.iter().map(|replica| replica.calls).sum();
        if all == 0 { 0.0 } else { replica.calls as f64 / all as f64 }
    }

    /// Adds a line to the log at the view's time.
    pub fn say(&mut self, text: &str) {
        let number = self.log.lines.back().map_or(1, |last| last.number + 1);
        self.log.lines.push_back(LogLine { number, at_ms: self.elapsed_ms, text: clean(text) });
        if self.log.lines.len() > LOG_LIMIT {
            self.log.lines.pop_front();
        }
    }
}

impl Log {
    /// Lines, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LogLine> + ExactSizeIterator {
        self.lines.iter()
    }
}

impl State {
    /// One word of at most eight letters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
            Self::Gone => "gone",
        }
    }
}

/// Text from elsewhere (an error message, a pod's name) must not move the cursor: control characters become spaces.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Bytes in the unit that keeps them short: `0 B`, `1.5 KiB`, `12 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let whole = size >= 10.0 || unit == "B";
            return if whole { format!("{size:.0} {unit}") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// Microseconds as people read them: `87 µs`, `1.20 ms`, `2.5 s`.
pub(super) fn latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_last_lines_and_their_numbers() {
        let mut view = View::default();
        for line in 1..=LOG_LIMIT + 5 {
            view.say(&format!("line {line}"));
        }
        assert_eq!(view.log.iter().len(), LOG_LIMIT);
        assert_eq!(view.log.iter().next().unwrap().number, 6);
        assert_eq!(view.log.iter().next_back().unwrap().text, "line 205");
    }

    #[test]
    fn shares_add_up_and_none_is_nan() {
        let mut view = View { replicas: vec![Replica::default(), Replica::default()], ..View::default() };
        assert_eq!(view.share(&view.replicas[0]), 0.0);
        view.replicas[0].calls = 1;
        view.replicas[1].calls = 3;
        assert_eq!((view.share(&view.replicas[0]), view.share(&view.replicas[1])), (0.25, 0.75));
    }

    #[test]
    fn numbers_read_like_words() {
        assert_eq!([bytes(0), bytes(1536), bytes(12 << 20)], ["0 B", "1.5 KiB", "12 MiB"]);
        assert_eq!([latency(87), latency(1200), latency(2_500_000)], ["87 µs", "1.20 ms", "2.5 s"]);
        assert_eq!(clean("a\x1b[2Jb\n"), "a [2Jb ");
    }
}
