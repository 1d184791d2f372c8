//! What a run shows: one plain [`View`], drawn on a terminal, as lines, or as JSON.
//!
//! The story fills a `View` and never prints; the renderers read it and know nothing of namespaces or the kernel. So all
//! three outputs say the same, and drawing is tested without a terminal.

mod draw;
mod keys;
mod lines;
mod terminal;
mod view;

pub use draw::draw;
pub use keys::{Input, Key, Keys};
pub use lines::{Plain, json};
pub use terminal::Terminal;
pub use view::{Client, Failure, Kernel, Log, LogLine, Replica, State, View};
