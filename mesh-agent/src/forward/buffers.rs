//! Buffers of one worker, lent while bytes are in hand.
//!
//! Connections wait without a buffer; a worker needs as many as it has connections whose receiver is slow.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Large enough that a bulk transfer costs two system calls per 64 KiB.
pub(super) const SIZE: usize = 64 * 1024;

/// Free buffers kept per thread: 16 × 64 KiB = 1 MiB.
const KEEP: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Goes back to its thread's stock when dropped.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(super) fn take() -> Self {
        let free = FREE.with(|free| free.try_borrow_mut().ok().and_then(|mut free| free.pop()));
        Self(free.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // At the end of a thread the stock may be gone already: then the buffer is freed.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEEP
            {
                free.push(buffer);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
