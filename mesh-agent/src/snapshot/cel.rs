//! Expressions of users (CEL), in the terms of Envoy's attributes.
//!
//! Place in the path: `config::compile` parses an expression once, `telemetry` asks it at the end of a request. Invariant:
//! what one evaluation may cost is bounded when it is parsed: by its length, and by having no macro inside a macro.

use cel::{Context, Program, Value};
use serde::{Serialize, Serializer};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Longest expression, bytes.
const LONGEST: usize = 1024;
/// Deepest nesting of parentheses, brackets and braces.
const DEEPEST: usize = 24;
/// Macros that walk a list or a map; one inside another multiplies.
const WALKS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];
/// What can be asked for.
const ATTRIBUTES: [&str; 9] =
    ["request", "response", "source", "destination", "connection", "upstream_peer", "downstream_peer", "xds", "node"];

/// A parsed expression. Two are equal where their texts are.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    #[error("{0} bytes are too long for an expression ({LONGEST} at most)")]
    Long(usize),
    #[error("nested too deeply")]
    Deep,
    #[error("walks a list more than once, which would cost every request too much")]
    Walks,
    #[error("{0}")]
    Syntax(String),
    #[error("{0:?} is no attribute here")]
    Unknown(String),
}

impl Expression {
    /// # Errors
    /// It is no CEL, costs too much, or asks for what there is not.
    pub fn parse(source: &str) -> Result<Self, CelError> {
        if source.len() > LONGEST {
            return Err(CelError::Long(source.len()));
        }
        if depth(source) > DEEPEST {
            return Err(CelError::Deep);
        }
        let walks: usize = WALKS.iter().map(|name| source.matches(&format!(".{name}(")).count()).sum();
        if walks > 1 {
            return Err(CelError::Walks);
        }
        // The parser's own word for what it does not like may be a panic; the configuration is no reason to end.
        let parsed = catch_unwind(AssertUnwindSafe(|| Program::compile(source)));
        let program = match parsed {
            Ok(Ok(program)) => program,
            Ok(Err(error)) => return Err(CelError::Syntax(one_line(&error.to_string()))),
            Err(_) => return Err(CelError::Syntax("malformed".into())),
        };
        let references = program.references();
        // A macro's own variable is no attribute.
        if walks == 0
            && let Some(unknown) = references.variables().into_iter().find(|name| !ATTRIBUTES.contains(name))
        {
            return Err(CelError::Unknown(unknown.to_owned()));
        }
        drop(references);
        Ok(Self { source: source.into(), program: Arc::new(program) })
    }

    /// `None`: it does not fit what there is: an absent key, a wrong type.
    pub fn evaluate(&self, context: &Context<'_, '_>) -> Option<Value> {
        catch_unwind(AssertUnwindSafe(|| self.program.execute(context))).ok()?.ok()
    }

    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

fn depth(source: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for c in source.chars() {
        match c {
            '(' | '[' | '{' | '?' | '!' | '-' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_checked_when_they_are_parsed() {
        for fine in [
            "response.code >= 400",
            "request.url_path.startsWith('/health')",
            "'x' in request.headers && request.headers['x'] == 'y'",
            "has(request.host) ? request.host : 'unknown'",
            "response.code >= 500 || request.method.matches('^P')",
        ] {
            assert_eq!(Expression::parse(fine).unwrap().source(), fine);
        }
        let deep = "(".repeat(30);
        let nested = "[1].all(a, [2].exists(b, a == b))";
        let long = format!("'{}' == ''", "a".repeat(LONGEST));
        for (wrong, why) in [
            ("response.code >=", None),
            ("", None),
            ("\u{0}", None),
            (&*deep, Some(CelError::Deep)),
            (nested, Some(CelError::Walks)),
            (&*long, Some(CelError::Long(LONGEST + 8))),
            ("respnse.code == 1", Some(CelError::Unknown("respnse".into()))),
        ] {
            let error = Expression::parse(wrong).unwrap_err();
            assert!(why.is_none_or(|why| why == error), "{wrong}: {error}");
        }
    }
}
