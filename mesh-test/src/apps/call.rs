//! One call, its outcome as one line of JSON: what tests and people use to look at a path.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::event::emit;
use super::load::client::{CallArgs, Client};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub ok: bool,
    /// `Ok`, or the code of [`super::load::client::Failure`].
    pub code: String,
    /// Why it failed; empty if it did not.
    pub message: String,
    /// The pod that answered.
    pub replica: String,
    pub messages: u64,
    pub elapsed_us: u64,
    /// The last message or the response.
    pub answer: serde_json::Value,
}

/// Makes the call and prints its outcome; true if it succeeded.
///
/// # Errors
/// The arguments are wrong (see [`Client::new`]).
pub async fn run(args: CallArgs) -> anyhow::Result<bool> {
    let outcome = once(args).await?;
    emit(&outcome);
    Ok(outcome.ok)
}

/// Makes the call.
///
/// # Errors
/// As [`run`].
pub async fn once(args: CallArgs) -> anyhow::Result<Outcome> {
    let client = Client::new(args, 1)?;
    let begun = Instant::now();
    let outcome = client.call().await;
    let elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(match outcome {
        Ok(answer) => Outcome {
            ok: true,
            code: "Ok".to_owned(),
            message: String::new(),
            replica: answer.replica,
            messages: answer.messages,
            elapsed_us,
            answer: answer.last,
        },
        Err(failure) => Outcome {
            ok: false,
            code: failure.code,
            message: failure.message,
            replica: String::new(),
            messages: 0,
            elapsed_us,
            answer: serde_json::Value::Null,
        },
    })
}
