//! The time limits of one worker's requests: timers that are nearly always cancelled.
//!
//! A timer of tokio's takes a lock and a place in a hierarchy of wheels, 0.3 µs to set and cancel; here both are a few
//! stores. The ring has a slot for each of the next 4,096 ms; what is due later stays in its slot until its turn comes.
//! Invariant: no alarm is early. One is late by 2 ms at most (its own rounding, and that of the timer of tokio's which
//! drives the ring), and by what the worker itself is late.

use super::Nanos;
use slab::Slab;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// All alarms of one worker; somebody must [`Alarms::run`] it.
#[derive(Debug)]
pub struct Alarms {
    ring: RefCell<Ring>,
    /// When the ring is looked at next, in [`Tick`]s.
    planned: Cell<Tick>,
    /// An alarm is due before that.
    earlier: Notify,
}

/// One alarm; dropping it cancels it.
#[derive(Debug)]
pub struct Alarm {
    alarms: Rc<Alarms>,
    key: usize,
}

/// A moment that somebody may wait for; few come to it. Its alarm is set by the first poll.
#[derive(Debug)]
pub struct Due {
    pub at: Nanos,
    alarms: Rc<Alarms>,
    alarm: Option<Alarm>,
}

/// Milliseconds of [`Nanos`].
type Tick = u64;

#[derive(Debug)]
struct Ring {
    entries: Slab<Entry>,
    /// The first entry of each slot's list, or [`NONE`].
    slots: Box<[usize]>,
    /// Slots were looked at up to this one.
    at: Tick,
}

#[derive(Debug)]
struct Entry {
    due: Tick,
    /// `None`: it went off.
    waker: Option<Waker>,
    /// Neighbours in the slot's list, or [`NONE`].
    before: usize,
    after: usize,
}

const SLOTS: u64 = 4096;
const NONE: usize = usize::MAX;

impl Alarms {
    pub fn new(now: Nanos) -> Self {
        let slots = std::iter::repeat_n(NONE, SLOTS as usize).collect();
        let ring = Ring { entries: Slab::new(), slots, at: begun(now) };
        Self { ring: RefCell::new(ring), planned: Cell::new(Tick::MAX), earlier: Notify::new() }
    }

    /// Wakes `cx` at `due`, unless the alarm is dropped before.
    pub fn set(self: &Rc<Self>, due: Nanos, cx: &Context<'_>) -> Alarm {
        let due = due.0.div_ceil(TICK);
        let key = self.ring.borrow_mut().insert(due, cx.waker().clone());
        if due < self.planned.get() {
            self.planned.set(due);
            self.earlier.notify_one();
        }
        Alarm { alarms: Rc::clone(self), key }
    }

    /// Lets alarms go off, for ever.
    pub async fn run(&self) {
        loop {
            let now = Nanos::now();
            let next = self.ring(now);
            self.planned.set(next.unwrap_or(Tick::MAX));
            match next {
                None => self.earlier.notified().await,
                Some(next) => {
                    let sleep = tokio::time::sleep(Nanos(next.saturating_mul(TICK)).since(now));
                    tokio::select! {
                        () = sleep => {}
                        () = self.earlier.notified() => {}
                    }
                }
            }
        }
    }

    /// Lets go off what is due; when to look next.
    fn ring(&self, now: Nanos) -> Option<Tick> {
        // Woken after the borrow: the last waker of a task may drop what holds other alarms.
        let mut woken: SmallVec<[Waker; 8]> = SmallVec::new();
        let next = self.ring.borrow_mut().advance(begun(now), &mut woken);
        woken.into_iter().for_each(Waker::wake);
        next
    }
}

impl Alarm {
    /// Ready once it went off; until then `cx` is whom it wakes.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut ring = self.alarms.ring.borrow_mut();
        let waker = ring.entries.get_mut(self.key).and_then(|entry| entry.waker.as_mut());
        let Some(waker) = waker else { return Poll::Ready(()) };
        // Dropped after the borrow, as in `Alarms::ring`.
        let former = (!waker.will_wake(cx.waker())).then(|| std::mem::replace(waker, cx.waker().clone()));
        drop(ring);
        drop(former);
        Poll::Pending
    }
}

impl Due {
    pub fn new(alarms: &Rc<Alarms>, at: Nanos) -> Self {
        Self { at, alarms: Rc::clone(alarms), alarm: None }
    }

    /// Ready once it is past; until then `cx` is whom it wakes.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.alarm.get_or_insert_with(|| self.alarms.set(self.at, cx)).poll(cx)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Dropped after the borrow, as in `Alarms::ring`.
        let entry = self.alarms.ring.borrow_mut().remove(self.key);
        drop(entry);
    }
}

impl Ring {
    fn insert(&mut self, due: Tick, waker: Waker) -> usize {
        // What is overdue goes off with the next tick.
        let due = due.max(self.at + 1);
        let after = self.slots.get(slot(due)).copied().unwrap_or(NONE);
        let key = self.entries.insert(Entry { due, waker: Some(waker), before: NONE, after });
        self.link(NONE, key, due);
        self.set_before(after, key);
        key
    }

    fn remove(&mut self, key: usize) -> Option<Entry> {
        let entry = self.entries.try_remove(key)?;
        if entry.waker.is_some() {
            self.unlink(&entry);
        }
        Some(entry)
    }

    /// Takes out what is due up to `now`; the first slot after that with anything in it.
    fn advance(&mut self, now: Tick, woken: &mut SmallVec<[Waker; 8]>) -> Option<Tick> {
        // More than a turn late: every slot once.
        for tick in (self.at + 1).max(now.saturating_sub(SLOTS - 1))..=now {
            let mut key = self.first(tick);
            while let Some(entry) = self.entries.get_mut(key) {
                let after = entry.after;
                if entry.due <= now {
                    woken.extend(entry.waker.take());
                    let (before, due) = (entry.before, entry.due);
                    self.link(before, after, due);
                    self.set_before(after, before);
                }
                key = after;
            }
        }
        self.at = self.at.max(now);
        (self.at + 1..=self.at + SLOTS).find(|tick| self.first(*tick) != NONE)
    }

    fn first(&self, tick: Tick) -> usize {
        self.slots.get(slot(tick)).copied().unwrap_or(NONE)
    }

    fn unlink(&mut self, entry: &Entry) {
        self.link(entry.before, entry.after, entry.due);
        self.set_before(entry.after, entry.before);
    }

    /// Puts `after` behind `before`, or first into the slot of `due`.
    fn link(&mut self, before: usize, after: usize, due: Tick) {
        match self.entries.get_mut(before) {
            Some(entry) => entry.after = after,
            None => {
                if let Some(first) = self.slots.get_mut(slot(due)) {
                    *first = after;
                }
            }
        }
    }

    fn set_before(&mut self, key: usize, before: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.before = before;
        }
    }
}

/// Nanoseconds of a tick.
const TICK: u64 = Duration::from_millis(1).as_nanos() as u64;

/// The last tick that has begun.
fn begun(now: Nanos) -> Tick {
    now.0 / TICK
}

fn slot(tick: Tick) -> usize {
    (tick % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn alarms() -> Rc<Alarms> {
        Rc::new(Alarms::new(Nanos(0)))
    }

    fn millis(millis: u64) -> Nanos {
        Nanos(millis * TICK)
    }

    #[test]
    fn is_never_early_and_a_tick_late_at_most() {
        let (alarms, count) = (alarms(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let mut alarm = alarms.set(Nanos(5 * TICK + 1), &cx);
        assert_eq!(alarms.ring(millis(5)), Some(6));
        assert!(alarm.poll(&cx).is_pending() && count.0.load(Relaxed) == 0);
        assert_eq!(alarms.ring(millis(6)), None);
        assert!(alarm.poll(&cx).is_ready() && count.0.load(Relaxed) == 1);
        drop(alarm);
        assert!(alarms.ring.borrow().entries.is_empty());
    }

    #[test]
    fn a_later_turn_waits_in_its_slot() {
        let (alarms, cx) = (alarms(), Context::from_waker(Waker::noop()));
        let (mut near, mut far) = (alarms.set(millis(7), &cx), alarms.set(millis(7 + SLOTS), &cx));
        assert_eq!(alarms.ring(millis(7)), Some(7 + SLOTS));
        assert!(near.poll(&cx).is_ready() && far.poll(&cx).is_pending());
        alarms.ring(millis(7 + 5 * SLOTS));
        assert!(far.poll(&cx).is_ready(), "the ring was not looked at for turns");
    }

    #[test]
    fn the_last_who_polled_is_woken() {
        let alarms = alarms();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut alarm = alarms.set(millis(1), &Context::from_waker(&Waker::from(Arc::clone(&first))));
        assert!(alarm.poll(&Context::from_waker(&Waker::from(Arc::clone(&second)))).is_pending());
        alarms.ring(millis(1));
        assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (0, 1));
    }

    thread_local! {
        /// An alarm of the ring that wakes [`Holder`].
        static HELD: RefCell<Option<Alarm>> = const { RefCell::new(None) };
    }

    struct Holder;

    impl std::task::Wake for Holder {
        fn wake(self: Arc<Self>) {
            drop(HELD.take());
        }
    }

    #[test]
    fn a_wake_may_drop_other_alarms() {
        let alarms = alarms();
        let other = alarms.set(millis(9), &Context::from_waker(Waker::noop()));
        HELD.set(Some(other));
        let waker = Waker::from(Arc::new(Holder));
        let alarm = alarms.set(millis(1), &Context::from_waker(&waker));
        assert_eq!(alarms.ring(millis(1)), Some(9), "as it was found");
        assert_eq!(alarms.ring(millis(2)), None, "as it was left");
        drop(alarm);
    }

    #[tokio::test]
    async fn goes_off_by_itself() {
        let alarms = Rc::new(Alarms::new(Nanos::now()));
        let begun = Nanos::now();
        let wait = |wait| {
            let mut due = Due::new(&alarms, begun.plus(Duration::from_millis(wait)));
            async move {
                std::future::poll_fn(|cx| due.poll(cx)).await;
                assert!(Nanos::now() >= due.at, "early");
            }
        };
        // The second is due before what the ring waits for after the first.
        let both = async {
            tokio::join!(wait(40), async {
                tokio::task::yield_now().await;
                wait(3).await;
            })
        };
        tokio::select! {
            _ = both => {}
            () = alarms.run() => {}
        }
    }

    proptest! {
        /// Against a plain list of due times.
        #[test]
        fn as_a_list_would(steps in proptest::collection::vec((0_u8..4, 0_u64..3 * SLOTS), 0..200)) {
            let (alarms, cx) = (alarms(), Context::from_waker(Waker::noop()));
            let (mut now, mut set) = (0, Vec::new());
            for (what, number) in steps {
                match what {
                    0 | 1 => set.push((now + number, alarms.set(millis(now + number), &cx))),
                    2 if !set.is_empty() => drop(set.swap_remove(number as usize % set.len())),
                    _ => now += number / 16,
                }
                let next = alarms.ring(millis(now));
                for (due, alarm) in &mut set {
                    let passed = alarm.poll(&cx).is_ready();
                    // What was overdue when it was set goes off with the next tick.
                    prop_assert!(passed == (*due <= now) || *due == now && !passed);
                    prop_assert!(passed || next.is_some_and(|next| next <= (*due).max(now + 1)));
                }
            }
            drop(set);
            prop_assert!(alarms.ring.borrow().entries.is_empty());
            prop_assert!(alarms.ring.borrow().slots.iter().all(|first| *first == NONE));
        }
    }
}
