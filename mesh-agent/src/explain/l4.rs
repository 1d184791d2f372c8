//! Connections whose bytes are not looked into.

use super::exchange::{forwarded_to, nobody};
use super::question::Speaks;
use super::view::{Backend, Explanation, Verdict};
use super::{Asking, lookup, verdict, words};
use crate::balance;
use crate::destination::Target;
use crate::destination::resolve::{self, To};
use crate::error::Failure;
use crate::snapshot::Protocol;
use std::rc::Rc;

/// Bytes: what they carry is not looked into.
pub(super) fn opaque(asking: &Asking<'_>, target: Result<&Rc<Target>, Failure>) -> Explanation {
    let to = resolve::connection(asking.world.snapshot, &asking.client(), &asking.wants);
    let mut explanation = asking.blank(lookup::of_destination(asking, &to), None);
    explanation.notes.extend(lookup::hidden(asking, &to, &asking.asked.host));
    match target {
        Err(failure) => {
            let why = nobody(&to, &asking.asked.host);
            explanation.verdict = closed(&failure, &why);
        }
        Ok(target) => {
            let mut backend = Backend {
                to: target.name.to_string(),
                subset: None,
                weight: 1,
                percent: 100.0,
                sent: None,
                policy: None,
                endpoints: Vec::new(),
                chosen: None,
                refusal: None,
            };
            let why = asking.describe(&mut backend, target, None);
            backend.refusal = why.map(|why| closed(&Failure::NoEndpoint, &why));
            explanation.verdict =
                backend.refusal.clone().unwrap_or_else(|| verdict::forwarded(forwarded_to(&backend, 0)));
            if target.protocol.is_opaque() && matches!(to, To::Service(..)) {
                explanation.lookup.taken_by = "kernel".into();
                // Whatever a DestinationRule says: by weight is what it can do.
                if let Some(policy) = &mut backend.policy {
                    policy.balancer = words::word(&balance::Policy::Random);
                }
            }
            if asking.asked.speaks == Speaks::Http && target.protocol.is_opaque() && matches!(to, To::Service(..)) {
                let port = asking.address.port();
                let word = if target.protocol == Protocol::Tls { "tls" } else { "tcp" };
                explanation.notes.push(format!(
                    "port {port} is declared {word}: HTTP is not looked into, rules for HTTP do not hold; \
                     name the port http-… or set appProtocol"
                ));
            }
            explanation.backends.push(backend);
        }
    }
    explanation
}

/// A connection ends; nobody is told why.
fn closed(failure: &Failure, why: &str) -> Verdict {
    let flags = failure.answer().flags;
    verdict::reset((!flags.is_empty()).then(|| flags.to_string()), why)
}
