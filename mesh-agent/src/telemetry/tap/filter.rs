//! Which requests a tap shows. Pure.

use crate::grpc;
use crate::snapshot::Workload;
use crate::snapshot::route::Pattern;
use crate::telemetry::access_log::Ended;
use crate::telemetry::{Callee, Series, canonical_service};
use http::request;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What whoever looks wants to see: requests that every given filter lets pass; of several values of one filter, one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TapQuestion {
    /// Pods, workloads or canonical services: `NAME`, `NAMESPACE/NAME`, or `NAMESPACE/` for all of one.
    pub from: Vec<String>,
    /// As `from`, and Services or hosts.
    pub to: Vec<String>,
    /// What the path begins with.
    pub path: Option<String>,
    /// What the whole path without its query is, as a VirtualService's `regex` (RE2).
    pub path_regex: Option<String>,
    pub methods: Vec<String>,
    /// `503`, `5xx`, `0` (no answer), `grpc:14`, `grpc:unavailable`.
    pub codes: Vec<String>,
    /// Requests after which it ends.
    pub max: Option<u64>,
}

/// Why there is no tap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongTap {
    #[error("`{0}` is no name: it is NAME, NAMESPACE/NAME, or NAMESPACE/")]
    Name(String),
    #[error("`{0}` is no code: it is 503, 5xx, 0 (no answer), grpc:14 or grpc:unavailable")]
    Code(String),
    #[error("path-regex: {0}")]
    Regex(String),
    #[error("{most} taps are open already; end one of them", most = super::MOST_TAPS)]
    TooMany,
}

#[derive(Debug)]
pub(super) struct Filter {
    from: Vec<Name>,
    to: Vec<Name>,
    path: Option<String>,
    regex: Option<Pattern>,
    methods: Vec<String>,
    codes: Vec<Code>,
}

#[derive(Debug, PartialEq, Eq)]
struct Name {
    namespace: Option<String>,
    /// Empty: any.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// 0: no answer.
    Exact(u16),
    /// 5: 500 to 599.
    Class(u16),
    Grpc(u8),
}

impl Filter {
    pub(super) fn new(question: &TapQuestion) -> Result<Self, WrongTap> {
        let names = |all: &[String]| all.iter().map(|text| Name::new(text)).collect::<Result<Vec<_>, _>>();
        let regex = question.path_regex.as_deref().map(Pattern::new).transpose();
        Ok(Self {
            from: names(&question.from)?,
            to: names(&question.to)?,
            path: question.path.clone(),
            regex: regex.map_err(|error| WrongTap::Regex(error.to_string()))?,
            methods: question.methods.clone(),
            codes: question.codes.iter().map(|text| Code::new(text)).collect::<Result<_, _>>()?,
        })
    }

    /// As far as a request's head tells.
    pub(super) fn wants_request(&self, caller: Option<&Arc<Workload>>, parts: &request::Parts) -> bool {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        self.is_from(caller.map(|caller| &**caller))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == parts.method.as_str()))
            && self.path.as_ref().is_none_or(|prefix| target.starts_with(prefix.as_str()))
            && self.regex.as_ref().is_none_or(|pattern| pattern.is_match(parts.uri.path()))
    }

    /// Connections have no method, path or code.
    pub(super) fn wants_connection(&self, caller: Option<&Arc<Workload>>) -> bool {
        let of_requests = self.path.is_some() || self.regex.is_some();
        !of_requests && self.methods.is_empty() && self.codes.is_empty() && self.is_from(caller.map(|caller| &**caller))
    }

    /// What only the end tells.
    pub(super) fn wants_end(&self, series: &Series, ended: &Ended<'_>) -> bool {
        let (callee, endpoint) = (&series.callee, series.endpoint.as_deref());
        (self.to.is_empty() || self.to.iter().any(|name| name.is_callee(callee, endpoint)))
            && (self.codes.is_empty() || self.codes.iter().any(|code| code.is_of(ended)))
    }

    fn is_from(&self, caller: Option<&Workload>) -> bool {
        self.from.is_empty() || caller.is_some_and(|caller| self.from.iter().any(|name| name.is_workload(caller)))
    }
}

impl Name {
    fn new(text: &str) -> Result<Self, WrongTap> {
        match text.split_once('/') {
            None if !text.is_empty() => Ok(Self { namespace: None, name: text.to_owned() }),
            Some((namespace, name)) if !namespace.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: Some(namespace.to_owned()), name: name.to_owned() })
            }
            _ => Err(WrongTap::Name(text.to_owned())),
        }
    }

    fn is(&self, namespace: &str, names: &[&str]) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && (self.name.is_empty() || names.contains(&self.name.as_str()))
    }

    fn is_workload(&self, of: &Workload) -> bool {
        self.is(&of.key.namespace, &[&of.key.name, &of.owner.name, canonical_service(of)])
    }

    fn is_callee(&self, callee: &Callee, endpoint: Option<&Workload>) -> bool {
        self.is(&callee.namespace, &[&callee.name])
            || (self.namespace.is_none() && self.name == *callee.host)
            || endpoint.is_some_and(|endpoint| self.is_workload(endpoint))
    }
}

impl Code {
    fn new(text: &str) -> Result<Self, WrongTap> {
        let wrong = || WrongTap::Code(text.to_owned());
        if let Some(status) = text.strip_prefix("grpc:") {
            return grpc::status_named(status).map(Self::Grpc).ok_or_else(wrong);
        }
        if let Some(class) = text.strip_suffix("xx") {
            return class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class).ok_or_else(wrong);
        }
        text.parse().ok().filter(|code| *code == 0 || (100..1000).contains(code)).map(Self::Exact).ok_or_else(wrong)
    }

    fn is_of(self, ended: &Ended<'_>) -> bool {
        let code = ended.how.code.unwrap_or(0);
        match self {
            Self::Exact(wanted) => code == wanted,
            Self::Class(class) => code / 100 == class,
            Self::Grpc(status) => ended.how.grpc_status == Some(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_read() {
        let name = |namespace: Option<&str>, name: &str| {
            Ok(Name { namespace: namespace.map(str::to_owned), name: name.to_owned() })
        };
        assert_eq!(Name::new("web"), name(None, "web"));
        assert_eq!(Name::new("shop/web"), name(Some("shop"), "web"));
        assert_eq!(Name::new("shop/"), name(Some("shop"), ""));
        for wrong in ["", "/", "/web", "a/b/c"] {
            assert_eq!(Name::new(wrong), Err(WrongTap::Name(wrong.to_owned())));
        }
        for (text, code) in [
            ("503", Code::Exact(503)),
            ("0", Code::Exact(0)),
            ("5xx", Code::Class(5)),
            ("grpc:14", Code::Grpc(14)),
            ("grpc:UNAVAILABLE", Code::Grpc(14)),
            ("grpc:deadline_exceeded", Code::Grpc(4)),
            ("grpc:CANCELLED", Code::Grpc(1)),
        ] {
            assert_eq!(Code::new(text), Ok(code), "{text}");
        }
        for wrong in ["", "5", "7xx", "xx", "grpc:", "grpc:nope", "grpc:256", "99999", "-1"] {
            assert_eq!(Code::new(wrong), Err(WrongTap::Code(wrong.to_owned())));
        }
        let question = TapQuestion { path_regex: Some("(".into()), ..TapQuestion::default() };
        assert!(matches!(Filter::new(&question), Err(WrongTap::Regex(_))));
    }
}
