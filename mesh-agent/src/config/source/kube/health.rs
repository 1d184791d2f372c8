//! How the source stands with the API server, for `status`.

use std::time::Instant;

#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The API server's address.
    pub server: String,
    /// Every list has been complete once: what is in force is the cluster's state.
    pub complete: bool,
    /// What is in force is what the last run left on disk.
    pub from_disk: bool,
    /// Since when the server does not answer, and why.
    pub away: Option<(Instant, String)>,
    /// The newest resourceVersion that was heard.
    pub version: u64,
    /// Hash of the objects that all agents have alike.
    pub objects: u64,
}

impl Health {
    pub(super) fn answered(&mut self) {
        if let Some((since, _)) = self.away.take() {
            tracing::info!(away = ?since.elapsed(), "the API server answers again");
        }
    }

    pub(super) fn gone(&mut self, why: String) {
        match &mut self.away {
            Some((_, known)) => *known = why,
            None => {
                tracing::warn!("the API server does not answer, what is known stays in force: {why}");
                self.away = Some((Instant::now(), why));
            }
        }
    }
}
