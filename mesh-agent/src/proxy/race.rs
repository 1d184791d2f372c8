//! Hedging: further attempts beside a slow one, until one of them has a usable answer (gRFC A6, Envoy's
//! `hedge_on_per_try_timeout`).
//!
//! Only where the policy says that repeating is harmless, within its budget, and while the request's body is still
//! there. 1xx heads of hedged requests are not passed on: nobody knows yet whose answer will count.

use super::Conn;
use super::attempt::attempt;
use super::attempts::{Attempts, Flown, landed, outcome, within};
use crate::addr::EndpointAddr;
use crate::balance::{Chosen, Priorities};
use crate::body::{Body, Replay};
use crate::connect::{HedgePermit, Permit, Way};
use crate::destination::Target;
use crate::error::Failure;
use crate::policy::{hedge, retry};
use crate::snapshot::route::Hedge;
use crate::telemetry::{Series, Served};
use crate::time::Nanos;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::request;
use smallvec::SmallVec;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;

/// One attempt among several.
struct Flight<'a> {
    conn: &'a Conn,
    target: &'a Target,
    chosen: Chosen,
    parts: request::Parts,
    body: Body,
    /// When it is too late for it.
    end: Option<Nanos>,
    served: Served,
    /// Of all but the first.
    _permits: Option<(HedgePermit, Option<Permit>)>,
}

impl<'a> Flight<'a> {
    async fn fly(self) -> (Flown, Rc<Series>) {
        let Self { conn, target, chosen, parts, body, end, served, _permits } = self;
        let (endpoint, series, mut served) = (chosen.addr(), Rc::clone(served.series()), Some(served));
        let way = Way { others: true, ..conn.way(target, chosen.dialled()) };
        let (mut upgrade, mut inform) = (None, None);
        let result = {
            let sent = attempt(conn, target, &way, &parts, body, &mut upgrade, &mut inform, &mut served);
            within(&conn.ctx.alarms, end, pin!(sent)).await
        };
        let at = Nanos::now();
        let served = landed(served, &result, at);
        (Flown { result, endpoint, priority: chosen.priority, served, at }, series)
    }
}

impl<'a> Attempts<'a> {
    /// The first usable answer, or what became of the last attempt. The others are dropped, which resets their streams
    /// with CANCEL. Endpoints that failed meanwhile are added to `tried`.
    pub(super) async fn race(
        &mut self,
        hedge: &Hedge,
        first: Chosen,
        tried: &mut SmallVec<[EndpointAddr; 4]>,
        exclude: Priorities,
    ) -> Result<Flown, Failure> {
        let mut flights = FuturesUnordered::new();
        flights.push(self.flight(hedge, first, None)?.fly());
        let mut wait = self.wait(hedge);
        loop {
            let due = async {
                match wait {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some((flown, series)) = flights.next() => {
                    self.underway.retain(|(chosen, _)| chosen.addr() != flown.endpoint);
                    self.traced(flown.endpoint, &flown.result);
                    let now = Nanos::now();
                    if flights.is_empty() || self.is_usable(&flown) {
                        self.underway.drain(..).for_each(|(loser, since)| loser.overtaken(since, now));
                        (self.endpoint, self.record.series) = (Some(flown.endpoint), series);
                        self.record.tap.iter_mut().for_each(|tap| tap.asks(flown.endpoint.addr()));
                        return Ok(flown);
                    }
                    tried.push(flown.endpoint);
                }
                () = due => {
                    if let Some(flight) = self.hedge(hedge, tried, exclude) {
                        flights.push(flight.fly());
                    }
                    wait = self.wait(hedge);
                }
            }
        }
    }

    /// An answer that the retry policy would not repeat.
    fn is_usable(&self, flown: &Flown) -> bool {
        flown.result.is_ok()
            && self.retry.is_none_or(|policy| retry::condition(policy, outcome(&flown.result)).is_none())
    }

    /// When the next attempt is due.
    fn wait(&self, hedge: &Hedge) -> Option<tokio::time::Instant> {
        let wait = hedge::wait(hedge, self.record.attempts, self.timeouts.per_try)?;
        Some(tokio::time::Instant::now() + wait)
    }

    /// One more attempt, at an endpoint that was not asked yet; `None`: there is none, or the budget is spent, or the
    /// request's beginning is gone.
    fn hedge(&mut self, hedge: &Hedge, tried: &[EndpointAddr], exclude: Priorities) -> Option<Flight<'a>> {
        let (cluster, upstream) = (&self.target.cluster, &self.target.upstream);
        if !hedge::within_budget(hedge, upstream.hedges(), cluster.active())
            || !self.replay.is_none_or(Replay::is_whole)
        {
            return None;
        }
        let asked: SmallVec<[EndpointAddr; 4]> =
            self.underway.iter().map(|(chosen, _)| chosen.addr()).chain(tried.iter().copied()).collect();
        let chosen = self.choose(&asked, exclude, Nanos::now()).ok()?;
        if asked.contains(&chosen.addr()) {
            return None;
        }
        let retry = self.conn.ctx.pools.retry(self.conn.way(self.target, chosen.addr())).ok()?;
        let flight = self.flight(hedge, chosen, Some((upstream.hedge(), retry))).ok()?;
        self.conn.ctx.recorder.metrics().hedged();
        Some(flight)
    }

    fn flight(
        &mut self,
        hedge: &Hedge,
        chosen: Chosen,
        permits: Option<(HedgePermit, Option<Permit>)>,
    ) -> Result<Flight<'a>, Failure> {
        let begun = Nanos::now();
        self.prepare(chosen.addr(), begun);
        let body = self.body()?;
        self.underway.push((chosen.clone(), begun));
        let served = self.served(chosen.start(begun), begun);
        Ok(Flight {
            conn: self.conn,
            target: self.target,
            chosen,
            parts: self.parts.clone(),
            body,
            // Where it only starts another attempt, it does not end this one.
            end: self.timeouts.per_try.filter(|_| !hedge.on_per_try_timeout).map(|limit| begun.plus(limit)),
            served,
            _permits: permits,
        })
    }
}
