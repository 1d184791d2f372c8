use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Wake, Waker};

/// A socket: gives what it is told to, takes what it has room for, keeps every write by itself.
#[derive(Debug)]
struct Socket {
    incoming: VecDeque<u8>,
    reads: usize,
    room: usize,
    writes: Vec<Vec<u8>>,
    broken: bool,
}

impl Socket {
    fn new(incoming: Vec<u8>) -> Self {
        Self { incoming: incoming.into(), reads: 0, room: usize::MAX, writes: Vec::new(), broken: false }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.incoming.is_empty() {
            return Poll::Pending;
        }
        self.reads += 1;
        let count = self.incoming.len().min(buf.remaining());
        buf.put_slice(&self.incoming.drain(..count).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Poll::Pending;
        }
        self.room -= count;
        self.writes.push(bytes[..count].to_vec());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

struct Bench {
    io: Gathered<Socket>,
    end: TurnEnd<Socket>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl Bench {
    fn new(incoming: Vec<u8>) -> Self {
        let (io, end) = Gathered::new(Socket::new(incoming), 0);
        let woken = Arc::new(Woken::default());
        Self { io, end, waker: Arc::clone(&woken).into(), woken }
    }

    fn poll_write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(&mut Context::from_waker(&self.waker), bytes)
    }

    /// How many bytes were taken; `None` where there is no room.
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.poll_write(bytes) {
            Poll::Ready(result) => Some(result.unwrap()),
            Poll::Pending => None,
        }
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(&mut Context::from_waker(&self.waker))
    }

    fn shutdown(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(&mut Context::from_waker(&self.waker))
    }

    /// At most `count` bytes; `None` where none are there.
    fn read(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.io).poll_read(&mut Context::from_waker(&self.waker), &mut buf) {
            Poll::Ready(result) => result.map(|()| Some(buf.filled().to_vec())).unwrap(),
            Poll::Pending => None,
        }
    }

    fn end_turn(&self) {
        self.end.poll(&mut Context::from_waker(&self.waker));
    }

    fn was_woken(&self) -> bool {
        self.woken.0.swap(false, Relaxed)
    }

    fn with<R>(&self, see: impl FnOnce(&mut Shared<Socket>) -> R) -> R {
        see(&mut self.io.shared.borrow_mut())
    }

    fn write_sizes(&self) -> Vec<usize> {
        self.with(|shared| shared.io.writes.iter().map(Vec::len).collect())
    }

    fn held(&self) -> usize {
        self.with(|shared| shared.gathered.capacity() + shared.ahead.bytes.capacity())
    }
}

const FRAME: usize = 16 << 10;

#[test]
fn the_large_writes_of_a_turn_are_one() {
    let mut bench = Bench::new(Vec::new());
    for byte in 0..3 {
        assert_eq!(bench.write(&[byte; FRAME]), Some(FRAME));
        assert!(bench.flush().is_ready());
    }
    assert!(bench.write_sizes().is_empty(), "the turn is not over");
    bench.end_turn();
    assert_eq!(bench.write_sizes(), [3 * FRAME]);
    assert_eq!(bench.held(), 0, "an idle connection holds no memory");
}

#[test]
fn what_is_together_is_written_before_the_turn_ends() {
    let mut bench = Bench::new(Vec::new());
    for _ in 0..5 {
        assert_eq!(bench.write(&[1; FRAME]), Some(FRAME));
    }
    assert_eq!(bench.write_sizes(), [LIMIT]);
    bench.end_turn();
    assert_eq!(bench.write_sizes(), [LIMIT, FRAME]);
}

#[test]
fn a_small_write_waits_for_nothing_and_overtakes_nothing() {
    let mut bench = Bench::new(Vec::new());
    assert_eq!(bench.write(b"small"), Some(5));
    assert_eq!(bench.write_sizes(), [5]);
    assert_eq!(bench.write(&[1; FRAME]), Some(FRAME));
    assert_eq!(bench.write(b"small"), Some(5));
    assert_eq!(bench.write_sizes(), [5]);
    bench.end_turn();
    assert_eq!(bench.write_sizes(), [5, FRAME + 5]);
}

#[test]
fn a_full_socket_bounds_what_is_gathered() {
    let mut bench = Bench::new(Vec::new());
    bench.with(|shared| shared.io.room = FRAME / 2);
    for byte in 0..4 {
        assert_eq!(bench.write(&[byte; FRAME]), Some(FRAME));
    }
    assert_eq!(bench.write(&[4; FRAME]), None);
    bench.end_turn();
    assert!(!bench.was_woken(), "the socket wakes the task, nothing else does");
    bench.with(|shared| shared.io.room = usize::MAX);
    bench.end_turn();
    assert_eq!(bench.write_sizes(), [FRAME / 2, LIMIT - FRAME / 2]);
    let written = bench.with(|shared| shared.io.writes.concat());
    assert!(written.chunks(FRAME).zip(0..4).all(|(frame, byte)| frame == [byte; FRAME]));
}

#[test]
fn an_error_at_the_end_of_a_turn_is_told_in_the_next() {
    for flush in [true, false] {
        let mut bench = Bench::new(Vec::new());
        assert_eq!(bench.write(&[1; FRAME]), Some(FRAME));
        bench.with(|shared| shared.io.broken = true);
        bench.end_turn();
        assert!(bench.was_woken());
        let error = if flush { bench.flush().map_ok(|()| 0) } else { bench.poll_write(b"more") };
        assert!(matches!(error, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    }
}

#[test]
fn shutting_down_writes_what_is_gathered() {
    let mut bench = Bench::new(Vec::new());
    assert_eq!(bench.write(&[1; FRAME]), Some(FRAME));
    assert!(bench.shutdown().is_ready());
    assert_eq!(bench.write_sizes(), [FRAME]);
}

#[test]
fn one_read_of_the_socket_feeds_many_and_a_turn_has_one() {
    let mut bench = Bench::new((0..3 * LIMIT).map(|at| (at % 251) as u8).collect());
    let mut got = Vec::new();
    for turn in 1..=3 {
        while let Some(bytes) = bench.read(8 << 10) {
            got.extend(bytes);
        }
        assert_eq!((got.len(), bench.with(|shared| shared.io.reads)), (turn * LIMIT, turn));
        assert!(bench.was_woken(), "there may be more");
        bench.end_turn();
    }
    assert!(got.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
    assert!(bench.read(8 << 10).is_none());
    assert!(!bench.was_woken(), "now it waits for the socket");
    assert_eq!(bench.held(), 0, "an idle connection holds no memory");
}

#[test]
fn what_was_read_and_not_taken_stays() {
    let (mut one, mut two) = (Bench::new(vec![1; 100]), Bench::new(vec![2; 100]));
    assert_eq!(one.read(10).unwrap(), [1; 10]);
    one.end_turn();
    assert_eq!(two.read(100).unwrap(), [2; 100]);
    assert_eq!(one.read(100).unwrap(), [1; 90]);
}

proptest! {
    /// Steps: writes, room in the socket and ends of turns in any order lose, double and reorder nothing.
    #[test]
    fn bytes_pass_whole_and_in_order(steps in proptest::collection::vec((0_u8..4, 1_usize..40_000), 1..60)) {
        let mut bench = Bench::new(Vec::new());
        let (mut next, mut sent) = (0_u8, Vec::new());
        for (what, size) in steps {
            match what {
                0 => bench.with(|shared| shared.io.room = size),
                1 => bench.end_turn(),
                _ => {
                    let bytes: Vec<u8> = (0..size).map(|at| next.wrapping_add(at as u8)).collect();
                    if let Some(count) = bench.write(&bytes) {
                        sent.extend_from_slice(&bytes[..count]);
                        next = next.wrapping_add(count as u8);
                    }
                }
            }
            prop_assert!(bench.with(|shared| shared.gathered.len()) <= LIMIT);
        }
        bench.with(|shared| shared.io.room = usize::MAX);
        bench.end_turn();
        prop_assert_eq!(bench.with(|shared| shared.io.writes.concat()), sent);
    }
}
