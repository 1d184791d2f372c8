//! A view as lines of text, for a pipe or a log, and as one line of JSON, for scripts.

use super::view::{View, bytes, clean, latency};

/// Renders views as plain lines; remembers what it has said, so that each call gives only what is new.
#[derive(Debug, Default)]
pub struct Plain {
    heading: Option<(u32, String)>,
    last_log: u64,
}

impl Plain {
    /// The lines for `view`: its heading and lesson if the step is new, new log lines, and one line of numbers.
    pub fn lines(&mut self, view: &View) -> Vec<String> {
        let mut lines = Vec::new();
        let heading = (view.step, view.title.clone());
        if self.heading.as_ref() != Some(&heading) {
            if self.heading.is_some() {
                lines.push(String::new());
            }
            lines.push(super::draw::heading(view));
            lines.extend(view.lesson.lines().map(|line| format!("  {}", clean(line))));
            self.heading = Some(heading);
        }
        for line in view.log.iter().filter(|line| line.number > self.last_log) {
            lines.push(format!("{:>7.1}s  {}", line.at_ms as f64 / 1e3, line.text));
        }
        self.last_log = view.log.iter().next_back().map_or(self.last_log, |line| line.number);
        lines.push(numbers(view));
        lines.extend(
            view.errors
                .iter()
                .map(|error| format!("          {} × {}: {}", error.count, clean(&error.code), clean(&error.message))),
        );
        lines
    }
}

/// The view as one line of JSON.
pub fn json(view: &View) -> String {
    // Only numbers, strings and lists of them: it cannot fail.
    serde_json::to_string(view).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn numbers(view: &View) -> String {
    let (client, kernel) = (&view.client, &view.kernel);
    let mut line = format!(
        "{:>7.1}s  {} calls ({:.0}/s), {} failed, {} connection{}, p50 {}, p99 {}",
        view.elapsed_ms as f64 / 1e3,
        client.calls,
        client.rate,
        client.failed,
        client.connections,
        if client.connections == 1 { "" } else { "s" },
        latency(client.p50_us),
        latency(client.p99_us),
    );
    for replica in &view.replicas {
        let share = view.share(replica) * 100.0;
        line.push_str(&format!(" | {} {} {share:.0}% {}", clean(&replica.pod), replica.calls, replica.state.word()));
    }
    if !kernel.tier.is_empty() {
        let saved = bytes(kernel.sk_msg_bytes);
        line.push_str(&format!(
            " | kernel: {} redirected, {} placed, {saved} by sk_msg",
            kernel.redirected, kernel.placed
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::view::{Client, Failure, Kernel, Replica, State};

    fn view() -> View {
        let replica =
            |pod: &str, calls| Replica { pod: pod.to_owned(), calls, state: State::Ready, ..Replica::default() };
        let mut view = View {
            elapsed_ms: 2_500,
            step: 1,
            steps: 6,
            title: "Without the mesh".to_owned(),
            lesson: "One connection,\none replica.".to_owned(),
            replicas: vec![replica("ws002-0", 75), replica("ws002-1", 25)],
            client: Client { connections: 1, calls: 100, rate: 50.0, p50_us: 300, p99_us: 1500, ..Client::default() },
            errors: vec![Failure { code: "Unavailable".to_owned(), count: 2, message: "gone\n\x1b[2J".to_owned() }],
            kernel: Kernel { tier: "full".to_owned(), redirected: 3, sk_msg_bytes: 2048, ..Kernel::default() },
            ..View::default()
        };
        view.say("first");
        view
    }

    #[test]
    fn each_call_says_only_what_is_new() {
        let (mut plain, mut view) = (Plain::default(), view());
        let lines = plain.lines(&view);
        assert_eq!(lines[0], "Step 1 of 6: Without the mesh (not in the mesh)");
        assert_eq!(lines[1..4], ["  One connection,", "  one replica.", "    2.5s  first"]);
        assert_eq!(
            lines[4],
            "    2.5s  100 calls (50/s), 0 failed, 1 connection, p50 300 µs, p99 1.50 ms | ws002-0 75 75% ready | \
             ws002-1 25 25% ready | kernel: 3 redirected, 0 placed, 2.0 KiB by sk_msg"
        );
        assert_eq!(lines[5..], ["          2 × Unavailable: gone  [2J"]);
        view.errors.clear();
        assert_eq!(plain.lines(&view).len(), 1);
        view.say("second");
        assert_eq!(plain.lines(&view)[0], "    2.5s  second");
        view.step = 2;
        view.enrolled = true;
        assert_eq!(plain.lines(&view)[1], "Step 2 of 6: Without the mesh (in the mesh)");
    }

    #[test]
    fn json_is_one_line_with_the_same_facts() {
        let text = json(&view());
        assert!(!text.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["replicas"][0]["calls"], 75);
        assert_eq!(value["replicas"][0]["state"], "ready");
        assert_eq!(value["log"][0]["text"], "first");
        assert_eq!(value["kernel"]["sk_msg_bytes"], 2048);
    }
}
