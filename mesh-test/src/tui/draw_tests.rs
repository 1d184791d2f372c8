//! What a person sees: content, places and sizes on ratatui's test terminal.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::tui::keys::Key;
use crate::tui::view::{Client, Kernel};

fn view(replicas: usize) -> View {
    let mut view = View {
        elapsed_ms: 12_300,
        step: 2,
        steps: 6,
        title: "The namespace is labelled".to_owned(),
        lesson:
            "Nothing was restarted and nothing in the app changed. The client still has one HTTP/2 connection, but \
                 each of its RPCs now goes to the replica whose turn it is, because the kernel gave the connection to \
                 the node's agent at connect()."
                .to_owned(),
        enrolled: true,
        replicas: (0..replicas)
            .map(|index| Replica {
                pod: format!("ws002-pingpong-{index}"),
                node: "node-1".to_owned(),
                state: State::Ready,
                calls: 1_000 * (index as u64 + 1),
                rate: 50.0,
            })
            .collect(),
        client: Client {
            pod: "ws001-api".to_owned(),
            target: "ws002-pingpong:9000".to_owned(),
            connections: 1,
            calls: 3_000,
            failed: 0,
            rate: 100.0,
            p50_us: 412,
            p99_us: 1_870,
        },
        kernel: Kernel {
            tier: "connect, sockops, sk_msg".to_owned(),
            redirected: 1,
            placed: 4,
            passed: 9,
            denied: 0,
            sk_msg_bytes: 3 << 20,
            sk_msg_messages: 6_000,
        },
        keys: vec![Key::ScaleUp, Key::ScaleDown, Key::Kill, Key::Label, Key::Next, Key::Quit],
        ..View::default()
    };
    view.say("the label istio-injection=enabled is on");
    view
}

fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content().chunks(usize::from(width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
}

fn row<'a>(screen: &'a [String], needle: &str) -> &'a str {
    screen.iter().find(|row| row.contains(needle)).unwrap_or_else(|| panic!("no `{needle}` in\n{}", screen.join("\n")))
}

fn cells(row: &str) -> usize {
    row.matches('█').count()
}

#[test]
fn eighty_by_twenty_four_has_every_fact_of_the_story() {
    let screen = screen(&view(2), 80, 24);
    assert!(screen[0].starts_with(" Step 2 of 6: The namespace is labelled (in the mesh)"), "{}", screen[0]);
    assert!(screen[0].ends_with("12 s "), "{}", screen[0]);
    assert!(row(&screen, "at connect().").contains("agent"));
    for fact in [
        "ws001-api → ws002-pingpong:9000",
        "client connections opened: 1",
        "3000 calls, 100/s, 0 failed",
        "p50 412 µs, p99 1.87 ms",
        "connect, sockops, sk_msg",
        "redirected 1, placed 4",
        "bypassed 9, refused 0",
        "sk_msg: 3.0 MiB in 6000 messages",
        "12.3s the label istio-injection=enabled is on",
    ] {
        row(&screen, fact);
    }
    let help = screen.last().unwrap();
    for key in ["+  scale up", "-  scale down", "k  kill one", "l  mesh on/off", "n  next", "q  quit"] {
        assert!(help.contains(key), "{help}");
    }
}

#[test]
fn bars_are_as_long_as_the_replicas_counts() {
    for width in [80, 120, 200] {
        let screen = screen(&view(2), width, 24);
        let (half, whole) = (cells(row(&screen, "ws002-pingpong-0")), cells(row(&screen, "ws002-pingpong-1")));
        assert!(whole > 10 && half.abs_diff(whole / 2) <= 1, "{width}: {half} and {whole}");
        assert!(row(&screen, "ws002-pingpong-1").contains("2000     50/s   67%"), "{}", screen.join("\n"));
    }
    let mut uneven = view(2);
    uneven.replicas[0].calls = 0;
    assert_eq!(cells(row(&screen(&uneven, 80, 24), "ws002-pingpong-0")), 0);
}

#[test]
fn five_replicas_fit_in_the_smallest_terminal_and_forty_are_summed_up() {
    let five = screen(&view(5), 80, 24);
    for index in 0..5 {
        row(&five, &format!("ws002-pingpong-{index} "));
    }
    let many = screen(&view(40), 80, 24);
    let summary = row(&many, "more with");
    let shown = many.iter().filter(|row| row.contains("ws002-pingpong-")).count();
    // Replica i has 1000 × (i + 1) calls, 820,000 in all.
    let rest: u64 = (shown as u64 + 1..=40).map(|number| 1_000 * number).sum();
    assert!(summary.contains(&format!("and {} more with {rest} calls", 40 - shown)), "{summary}");
}

#[test]
fn errors_come_before_the_log_and_cannot_move_the_cursor() {
    let mut failing = view(2);
    failing.client.failed = 2;
    failing.errors =
        vec![Failure { code: "Unavailable".to_owned(), count: 2, message: "10.0.0.7:9000 \x1b[2Jrefused".to_owned() }];
    let screen = screen(&failing, 100, 30);
    row(&screen, "2 failed");
    row(&screen, "2 × Unavailable: 10.0.0.7:9000  [2Jrefused");
    row(&screen, "the label");
}

#[test]
fn no_size_and_no_view_panics() {
    for (width, height) in [(1, 1), (10, 3), (20, 5), (79, 12), (80, 24), (300, 100)] {
        for view in [View::default(), view(0), view(1), view(100)] {
            screen(&view, width, height);
        }
    }
}

#[test]
fn states_and_enrolment_are_shown() {
    let mut outside = view(2);
    outside.enrolled = false;
    outside.replicas[0].state = State::Killed;
    let screen = screen(&outside, 80, 24);
    assert!(screen[0].contains("(not in the mesh)"), "{}", screen[0]);
    assert!(row(&screen, "ws002-pingpong-0").contains("killed"));
}
