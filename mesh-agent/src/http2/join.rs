//! Few large DATA frames instead of many small ones.
//!
//! `h2` takes its time and some 300 bytes for each DATA frame, however short, and so does every stage behind it. A
//! stream of small messages arrives as runs of such frames: those of a run that one read of the socket has whole become
//! one before `h2` sees them. Flow control counts bytes, and a body is a sequence of bytes (RFC 9113 §6.1): nobody can
//! tell.
//!
//! Place in the path: what `gather` has read, before it is taken. Invariant: nothing is held back and nothing waits: all
//! frames but DATA, padded ones and those that are not whole pass as they came, in their order.

/// Length of a frame's header (RFC 9113 §4.1).
const HEAD: usize = 9;
/// Longest frame that is made, header included: what `h2` reads at once, so that none is copied for being cut in two.
const LONGEST: usize = 8 << 10;
/// The type of DATA frames and the only flag that the last one of a run may have (RFC 9113 §6.1).
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// Joins the DATA frames of one direction of a connection.
#[derive(Debug)]
pub(super) struct Joiner {
    /// Bytes to come that begin no frame.
    skip: usize,
    /// What has come of a header that is not whole: `head[..have]`.
    head: [u8; HEAD],
    have: usize,
}

impl Joiner {
    /// `preface`: bytes before the first frame.
    pub(super) fn new(preface: usize) -> Self {
        Self { skip: preface, head: [0; HEAD], have: 0 }
    }

    /// Joins what can be joined of the bytes that have come next; returns how many are left of them, at the begin.
    pub(super) fn join(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = self.rest_of_former(bytes);
        let mut end = at;
        // Where the frame lies that the next one may continue.
        let mut run = None;
        while let Some(&head) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            let next = at + HEAD + length(head);
            if next > bytes.len() {
                break;
            }
            match run {
                Some(first) if continues(bytes, first, end, head) => {
                    bytes.copy_within(at + HEAD..next, end);
                    end += length(head);
                    if let Some(whole) = bytes.get_mut(first..).and_then(<[u8]>::first_chunk_mut) {
                        lengthen(whole, end - first - HEAD, head);
                    }
                }
                _ => {
                    bytes.copy_within(at..next, end);
                    run = Some(end);
                    end += next - at;
                }
            }
            at = next;
        }
        self.begin_of_next(bytes.get(at..).unwrap_or_default());
        bytes.copy_within(at.., end);
        end + bytes.len() - at
    }

    /// Where the first frame begins that was not begun before.
    fn rest_of_former(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.have > 0 {
            at = bytes.len().min(HEAD - self.have);
            self.add_to_head(bytes.get(..at).unwrap_or_default());
        }
        let skipped = self.skip.min(bytes.len() - at);
        self.skip -= skipped;
        at + skipped
    }

    /// `bytes`: the begin of a frame that is not whole, maybe nothing.
    fn begin_of_next(&mut self, bytes: &[u8]) {
        if self.skip == 0 && self.have == 0 {
            let (head, payload) = bytes.split_at(bytes.len().min(HEAD));
            self.add_to_head(head);
            self.skip = self.skip.saturating_sub(payload.len());
        }
    }

    /// Once the header is whole, its payload is what is to be skipped.
    fn add_to_head(&mut self, bytes: &[u8]) {
        let have = self.have + bytes.len();
        if let Some(room) = self.head.get_mut(self.have..have) {
            room.copy_from_slice(bytes);
        }
        self.have = have % HEAD;
        if have == HEAD {
            self.skip = length(self.head);
        }
    }
}

/// Of the payload.
fn length(head: [u8; HEAD]) -> usize {
    let [a, b, c, ..] = head;
    u32::from_be_bytes([0, a, b, c]) as usize
}

/// Whether the frame with `head` may become a part of the one at `bytes[first..end]`.
fn continues(bytes: &[u8], first: usize, end: usize, head: [u8; HEAD]) -> bool {
    let Some(&[_, _, _, DATA, 0, stream @ ..]) = bytes.get(first..).and_then(<[u8]>::first_chunk::<HEAD>) else {
        return false;
    };
    let [_, _, _, DATA, 0 | END_STREAM, same @ ..] = head else { return false };
    stream == same && end - first + length(head) <= LONGEST
}

/// The frame with `whole` before it ends where and as the one with `last` did.
fn lengthen(whole: &mut [u8; HEAD], payload: usize, last: [u8; HEAD]) {
    let [_, a, b, c] = (payload as u32).to_be_bytes();
    let [_, _, _, _, flags, ..] = last;
    let [length @ .., _, whole_flags, _, _, _, _] = whole;
    (*length, *whole_flags) = ([a, b, c], flags);
}

#[cfg(test)]
mod tests;
