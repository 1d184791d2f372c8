//! The terminal in its drawing state, put back whatever happens.

use std::io::{self, IsTerminal as _};

use ratatui::DefaultTerminal;

use super::draw::draw;
use super::view::View;

/// Raw mode and the alternate screen; both end when this is dropped, and before a panic's message is printed.
#[derive(Debug)]
pub struct Terminal {
    inner: DefaultTerminal,
}

impl Terminal {
    /// Whether standard input and output are a terminal that can be drawn on.
    pub fn is_available() -> bool {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        !dumb && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Takes the terminal over.
    ///
    /// # Errors
    /// Standard output is no terminal; it is left as it was.
    pub fn open() -> io::Result<Self> {
        // Installs a panic hook that restores the terminal first.
        match ratatui::try_init() {
            Ok(inner) => Ok(Self { inner }),
            Err(error) => {
                // It may have failed half way, with raw mode on already.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }

    /// Draws `view`.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn show(&mut self, view: &View) -> io::Result<()> {
        self.inner.draw(|frame| draw(frame, view)).map(drop)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal may be gone, and there is nobody left to tell.
        let _ = ratatui::try_restore();
    }
}
