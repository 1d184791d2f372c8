//! What several agents count is added up.

use super::client::Client;
use super::cluster::Cluster;
use anyhow::Result;
use serde::de::DeserializeOwned;

/// Whose counts a command adds up.
pub(super) enum Crowd<'a> {
    One(Client),
    All(&'a Cluster),
}

impl Crowd<'_> {
    /// What each says, by its name. Those of a cluster that do not answer are named on stderr.
    ///
    /// # Errors
    /// Nobody answers.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<(String, T)>> {
        match self {
            Self::One(client) => Ok(vec![(client.name(), client.read(path)?)]),
            Self::All(cluster) => {
                let (heard, _) = cluster.heard(path)?;
                Ok(heard.into_iter().map(|(member, answer)| (member.node.clone(), answer)).collect())
            }
        }
    }
}
