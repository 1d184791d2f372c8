//! Draws a view. Pure: the same view on the same area gives the same cells. Made for 80 × 24, uses more if there is more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Wrap};

use super::view::{Failure, Replica, State, View, bytes, clean, latency};

/// Columns of a replica's line beside its name and its bar: state, calls, rate, share and the spaces between.
const REPLICA_NUMBERS: u16 = 1 + 9 + 1 + 9 + 1 + 8 + 1 + 5;

/// Draws `view` over the whole frame.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let lesson_rows = wrapped_rows(&view.lesson, area.width).clamp(1, 5);
    let rows_wanted = u16::try_from(view.replicas.len()).unwrap_or(u16::MAX).max(1);
    let [title, lesson, replicas, facts, events, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(lesson_rows + 1),
        // The bars are what people came to see: they get their rows before the log does.
        Constraint::Length(rows_wanted.saturating_add(2).min(area.height.saturating_sub(12 + lesson_rows).max(3))),
        Constraint::Length(6),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, view);
    frame.render_widget(Paragraph::new(clean_lines(&view.lesson)).wrap(Wrap { trim: true }), lesson);
    draw_replicas(frame, replicas, view);
    let [client, kernel] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(facts);
    draw_client(frame, client, view);
    draw_kernel(frame, kernel, view);
    draw_events(frame, events, view);
    draw_keys(frame, keys, view);
}

/// `Step 2 of 6: Enrolled (in the mesh)`.
pub(super) fn heading(view: &View) -> String {
    let mesh = if view.enrolled { "in the mesh" } else { "not in the mesh" };
    if view.steps == 0 {
        return format!("{} ({mesh})", clean(&view.title));
    }
    format!("Step {} of {}: {} ({mesh})", view.step, view.steps, clean(&view.title))
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let style = Style::new().fg(Color::Black).bg(if view.enrolled { Color::Green } else { Color::Yellow });
    let time = format!("{:.0} s ", view.elapsed_ms as f64 / 1e3);
    let room = usize::from(area.width).saturating_sub(time.chars().count() + 1);
    let text = format!(" {:<room$}{time}", cut(&heading(view), room), room = room);
    frame.render_widget(Paragraph::new(text).style(style.add_modifier(Modifier::BOLD)), area);
}

fn draw_replicas(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().title(" RPCs per replica ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = usize::from(inner.height);
    // The last row stands for all that have none of their own.
    let shown = if view.replicas.len() > rows { rows.saturating_sub(1) } else { view.replicas.len() };
    let longest = view.replicas.iter().map(|replica| replica.pod.chars().count()).max().unwrap_or(0);
    let name_width = longest.min(usize::from(inner.width / 3));
    let bar_width = usize::from(inner.width.saturating_sub(REPLICA_NUMBERS)).saturating_sub(name_width + 1);
    let most = view.replicas.iter().map(|replica| replica.calls).max().unwrap_or(0);
    let (visible, hidden) = view.replicas.split_at(shown);
    let mut lines: Vec<Line<'_>> =
        visible.iter().map(|replica| replica_line(view, replica, most, name_width, bar_width)).collect();
    if !hidden.is_empty() {
        let calls: u64 = hidden.iter().map(|replica| replica.calls).sum();
        lines.push(Line::from(format!("and {} more with {calls} calls", hidden.len())).dim());
    }
    if view.replicas.is_empty() {
        lines.push(Line::from("no replica yet").dim());
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn replica_line<'a>(view: &View, replica: &Replica, most: u64, name_width: usize, bar_width: usize) -> Line<'a> {
    let color = match replica.state {
        State::Ready => Color::Green,
        State::Starting | State::Stopping => Color::Yellow,
        State::Killed => Color::Red,
        State::Gone => Color::DarkGray,
    };
    Line::from(vec![
        Span::raw(format!("{:<name_width$} ", cut(&clean(&replica.pod), name_width))),
        Span::styled(format!("{:<8} ", replica.state.word()), color),
        Span::styled(bar(replica.calls, most, bar_width), color),
        Span::raw(format!(" {:>9} {:>6.0}/s ", replica.calls, replica.rate)),
        Span::raw(format!("{:>4.0}%", view.share(replica) * 100.0)).bold(),
    ])
}

/// A bar of `width` cells whose length is `value` of `most`, in eighths of a cell: 3 of 8 over two cells is six eighths.
fn bar(value: u64, most: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let full = width as u64 * 8;
    let filled = if most == 0 { 0 } else { (value as f64 / most as f64 * full as f64).round() as u64 };
    // A replica with any call at all must not look like one with none.
    let filled = if value > 0 { filled.max(1) } else { 0 }.min(full);
    let (cells, rest) = ((filled / 8) as usize, (filled % 8) as usize);
    let text = "█".repeat(cells) + EIGHTHS.get(rest).copied().unwrap_or_default();
    format!("{text:<width$}")
}

fn draw_client(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let client = &view.client;
    let failed = Span::raw(format!("{} failed", client.failed));
    let failed = if client.failed == 0 { failed.fg(Color::Green) } else { failed.fg(Color::Red).bold() };
    let lines = vec![
        Line::from(format!("{} → {}", clean(&client.pod), clean(&client.target))),
        Line::from(vec![Span::raw("client connections opened: "), Span::raw(client.connections.to_string()).bold()]),
        Line::from(vec![Span::raw(format!("{} calls, {:.0}/s, ", client.calls, client.rate)), failed]),
        Line::from(format!("p50 {}, p99 {}", latency(client.p50_us), latency(client.p99_us))),
    ];
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" client ")), area);
}

fn draw_kernel(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let kernel = &view.kernel;
    let tier = if kernel.tier.is_empty() { "no agent runs".to_owned() } else { clean(&kernel.tier) };
    let lines = vec![
        Line::from(tier),
        Line::from(format!("redirected {}, placed {}", kernel.redirected, kernel.placed)),
        Line::from(format!("bypassed {}, refused {}", kernel.passed, kernel.denied)),
        Line::from(format!("sk_msg: {} in {} messages", bytes(kernel.sk_msg_bytes), kernel.sk_msg_messages)),
    ];
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" kernel: connections ")), area);
}

/// Errors first, then as much of the end of the log as there is room for.
fn draw_events(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().title(" what happened ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = usize::from(inner.height);
    let mut lines: Vec<Line<'_>> = view.errors.iter().take(rows).map(error_line).collect();
    let room = rows - lines.len();
    let skipped = view.log.iter().len().saturating_sub(room);
    lines.extend(view.log.iter().skip(skipped).map(|line| {
        Line::from(vec![Span::raw(format!("{:>6.1}s ", line.at_ms as f64 / 1e3)).dim(), Span::raw(line.text.clone())])
    }));
    frame.render_widget(Paragraph::new(lines), inner);
}

fn error_line<'a>(error: &Failure) -> Line<'a> {
    Line::from(format!("{} × {}: {}", error.count, clean(&error.code), clean(&error.message))).fg(Color::Red)
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let mut spans = Vec::new();
    for key in &view.keys {
        let (letter, help) = key.help();
        spans.push(Span::raw(format!(" {letter} ")).reversed());
        spans.push(Span::raw(format!(" {help}  ")));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn clean_lines(text: &str) -> Vec<Line<'static>> {
    text.lines().map(|line| Line::from(clean(line))).collect()
}

/// The first `width` characters, the last of them `…` if some were cut off.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect()
}

/// Rows that `text` takes when words are not split: an upper bound that counts what a broken line may waste.
fn wrapped_rows(text: &str, width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let rows: usize = text
        .lines()
        .map(|line| {
            let (mut rows, mut column) = (1, 0);
            for word in line.split_whitespace().map(|word| word.chars().count()) {
                if column > 0 && column + 1 + word > width {
                    rows += 1;
                    column = word;
                } else {
                    column += word + usize::from(column > 0);
                }
            }
            rows
        })
        .sum();
    u16::try_from(rows).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
