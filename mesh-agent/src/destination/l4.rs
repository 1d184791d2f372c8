//! Where the bytes of a connection go that nobody looks into.

use super::{Asker, Destinations, Target, resolve};
use crate::error::Failure;
use crate::listen::{Source, Wants};
use crate::route::split;
use crate::snapshot::route::{BackendTo, Destination};
use resolve::To;
use std::rc::Rc;
use std::sync::Arc;

impl Destinations {
    /// As `tls` and `tcp` rules say, else where the connection was made for. `sni`: the name in its ClientHello.
    ///
    /// # Errors
    /// As [`Self::connection`]; `NoCluster` where a rule has no destination that exists.
    pub fn opaque(
        &self,
        source: &Source,
        wants: &Wants,
        sni: Option<&str>,
        rng: &mut fastrand::Rng,
    ) -> Result<Rc<Target>, Failure> {
        let to = {
            let mut cache = self.snapshot.borrow_mut();
            let client = Asker::new(source, wants).client;
            let opaque = resolve::opaque(cache.load(), &client, wants, sni);
            match (opaque.rule, opaque.to) {
                (Some(rule), _) => match split::weighted(rule.backends(), rng).map(|backend| &backend.to) {
                    Some(BackendTo::Service(to)) => to.clone(),
                    Some(BackendTo::Refused { status, .. }) => return Err(Failure::RefusedBackend(*status)),
                    None => return Err(Failure::NoCluster),
                },
                // Known by the name or the port alone: the address means nothing.
                (None, To::Service(service, port)) if service.by_host && wants.original().is_some() => {
                    Destination { host: Arc::clone(&service.host), port: Some(port.port), subset: None }
                }
                (None, _) => {
                    drop(cache);
                    return self.connection(source, wants);
                }
            }
        };
        self.backend(source, wants, &to, wants.port())
    }

    /// Whether a TLS connection goes where its ClientHello's name says.
    pub fn asks_for_name(&self, source: &Source, wants: &Wants) -> bool {
        let mut cache = self.snapshot.borrow_mut();
        resolve::asks_for_name(cache.load(), &Asker::new(source, wants).client, wants)
    }
}
