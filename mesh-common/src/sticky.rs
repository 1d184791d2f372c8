//! Whether a message between app and agent may skip TCP/IP (sk_msg), per direction.
//!
//! Redirected bytes have no back-pressure: they pile up in the receiver's memory. So a direction that has sent
//! [`MAX_BYTES`] or [`MAX_MESSAGES`] without hearing from its peer stays on TCP for good. Invariant: redirect then TCP
//! may happen once, TCP then redirect never: the receiver reads redirected bytes first.

/// Bytes one direction may redirect without the peer speaking.
pub const MAX_BYTES: u32 = 1 << 20;
/// Messages one direction may redirect without the peer speaking.
pub const MAX_MESSAGES: u32 = 256;

/// One direction of a flow, kept in the flow's entry.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Direction {
    /// Redirected since the peer last spoke.
    pub bytes: u32,
    pub messages: u32,
    /// Not 0: this direction is on TCP for good.
    pub stopped: u32,
    pub pad: u32,
}

/// What to do with one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Redirect,
    /// The bound was reached by this message: it and all that follow go by TCP.
    Stop,
    /// On TCP already.
    Tcp,
}

impl Direction {
    /// Decides on a message of `size` bytes and accounts for it.
    #[inline(always)]
    pub fn send(&mut self, size: u32) -> Step {
        if self.stopped != 0 {
            return Step::Tcp;
        }
        // 1 MiB sent and 1 byte more: 1,048,577 > 1,048,576 → TCP.
        if size > MAX_BYTES || self.bytes > MAX_BYTES - size || self.messages >= MAX_MESSAGES {
            self.stopped = 1;
            return Step::Stop;
        }
        self.bytes += size;
        self.messages += 1;
        Step::Redirect
    }

    /// The peer spoke: it has had a chance to read.
    #[inline(always)]
    pub fn heard(&mut self) {
        self.bytes = 0;
        self.messages = 0;
    }

    /// The peer's socket is not there: what is sent now goes by TCP, so everything later must.
    #[inline(always)]
    pub fn stop(&mut self) {
        self.stopped = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_bound_is_exact() {
        let mut d = Direction::default();
        assert_eq!(d.send(MAX_BYTES), Step::Redirect);
        assert_eq!(d.send(1), Step::Stop);
        d.heard();
        assert_eq!(d.send(1), Step::Tcp, "never TCP then redirect");
        assert_eq!(Direction::default().send(MAX_BYTES + 1), Step::Stop);
    }

    #[test]
    fn messages_bound_and_reset() {
        let mut d = Direction::default();
        for _ in 0..10 * MAX_MESSAGES {
            assert_eq!(d.send(1), Step::Redirect);
            d.heard();
        }
        for _ in 0..MAX_MESSAGES {
            assert_eq!(d.send(1), Step::Redirect);
        }
        assert_eq!(d.send(1), Step::Stop);
    }

    proptest! {
        #[test]
        fn never_above_the_bound_and_never_back(steps in prop::collection::vec((any::<bool>(), 0_u32..=u32::MAX), 0..600)) {
            let (mut d, mut queued, mut tcp) = (Direction::default(), 0_u64, false);
            for (speaks, size) in steps {
                if speaks { d.heard(); queued = 0; continue; }
                match d.send(size) {
                    Step::Redirect => { prop_assert!(!tcp); queued += u64::from(size); }
                    Step::Stop => { prop_assert!(!tcp); tcp = true; }
                    Step::Tcp => prop_assert!(tcp),
                }
                prop_assert!(queued <= u64::from(MAX_BYTES));
            }
        }
    }
}
