//! Key presses as what they mean.

use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde::Serialize;
use tokio::sync::mpsc;

/// What a person can ask a run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// One replica more.
    ScaleUp,
    /// One replica less.
    ScaleDown,
    /// Kill one replica, without a farewell.
    Kill,
    /// Put the label that enrols the namespace on, or take it off.
    Label,
    /// Go on with the story.
    Next,
    Quit,
}

/// Something came from the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Key(Key),
    /// The terminal has another size: draw again.
    Resized,
}

/// Inputs of the terminal, read by a thread of its own until this is dropped.
#[derive(Debug)]
pub struct Keys {
    inputs: mpsc::UnboundedReceiver<Input>,
}

impl Keys {
    /// Starts reading. The terminal must be in raw mode ([`super::Terminal`]).
    pub fn read() -> Self {
        let (sender, inputs) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while !sender.is_closed() {
                // Short enough that the thread is gone soon after its reader.
                match event::poll(Duration::from_millis(100)) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let input = match event::read() {
                    Ok(Event::Key(key)) => Key::from_event(key).map(Input::Key),
                    Ok(Event::Resize(..)) => Some(Input::Resized),
                    Ok(_) => None,
                    Err(_) => return,
                };
                if input.is_some_and(|input| sender.send(input).is_err()) {
                    return;
                }
            }
        });
        Self { inputs }
    }

    /// The next input; `None` when the terminal is gone.
    pub async fn next(&mut self) -> Option<Input> {
        self.inputs.recv().await
    }
}

impl Key {
    /// The key to press and what it does, for the help line.
    pub fn help(self) -> (&'static str, &'static str) {
        match self {
            Self::ScaleUp => ("+", "scale up"),
            Self::ScaleDown => ("-", "scale down"),
            Self::Kill => ("k", "kill one"),
            Self::Label => ("l", "mesh on/off"),
            Self::Next => ("n", "next"),
            Self::Quit => ("q", "quit"),
        }
    }

    fn from_event(event: KeyEvent) -> Option<Self> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        // Raw mode makes Ctrl-C a key; it must end the run all the same.
        if event.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(event.code, KeyCode::Char('c' | 'C' | 'd' | 'D')).then_some(Self::Quit);
        }
        match event.code {
            KeyCode::Char('+' | '=') | KeyCode::Up => Some(Self::ScaleUp),
            KeyCode::Char('-' | '_') | KeyCode::Down => Some(Self::ScaleDown),
            KeyCode::Char('k' | 'K') => Some(Self::Kill),
            KeyCode::Char('l' | 'L') => Some(Self::Label),
            KeyCode::Char('n' | 'N' | ' ') | KeyCode::Enter | KeyCode::Right => Some(Self::Next),
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Self::Quit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_line_says() {
        for key in [Key::ScaleUp, Key::ScaleDown, Key::Kill, Key::Label, Key::Next, Key::Quit] {
            let (letter, _) = key.help();
            let code = KeyCode::Char(letter.chars().next().unwrap());
            assert_eq!(Key::from_event(KeyEvent::new(code, KeyModifiers::NONE)), Some(key));
        }
    }

    #[test]
    fn control_c_quits_and_other_keys_do_nothing() {
        let press = |code, modifiers| Key::from_event(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(press(KeyCode::Char('k'), KeyModifiers::CONTROL), None);
        assert_eq!(press(KeyCode::Char('z'), KeyModifiers::NONE), None);
        let release = KeyEvent::new_with_kind(KeyCode::Char('k'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(Key::from_event(release), None);
    }
}
