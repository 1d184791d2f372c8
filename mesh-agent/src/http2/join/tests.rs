use super::*;
use proptest::prelude::*;

const HEADERS: u8 = 1;
const PADDED: u8 = 8;

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame {
    Frame { kind, flags, stream, payload: payload.to_vec() }
}

fn data(stream: u32, payload: &str) -> Frame {
    frame(DATA, 0, stream, payload.as_bytes())
}

fn bytes(frames: &[Frame]) -> Vec<u8> {
    let frame = |frame: &Frame| {
        let [_, length @ ..] = (frame.payload.len() as u32).to_be_bytes();
        [&length[..], &[frame.kind, frame.flags], &frame.stream.to_be_bytes(), &frame.payload].concat()
    };
    frames.iter().flat_map(frame).collect()
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(&[a, b, c, kind, flags, s1, s2, s3, s4]) = bytes.first_chunk() {
        let end = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([s1, s2, s3, s4]);
        frames.push(frame(kind, flags, stream, &bytes[HEAD..end]));
        bytes = &bytes[end..];
    }
    assert!(bytes.is_empty());
    frames
}

/// What is left when the bytes come in pieces, the last of which is the rest.
fn joined(preface: usize, bytes: &[u8], pieces: &[usize]) -> Vec<u8> {
    let mut joiner = Joiner::new(preface);
    let (mut left, mut out) = (bytes, Vec::new());
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let (now, later) = left.split_at(piece.min(left.len()));
        let mut now = now.to_vec();
        let count = joiner.join(&mut now);
        out.extend_from_slice(&now[..count]);
        left = later;
    }
    out
}

fn whole(all: &[Frame]) -> Vec<Frame> {
    frames(&joined(0, &bytes(all), &[]))
}

#[test]
fn a_run_becomes_one_frame_that_ends_the_stream_if_its_last_did() {
    let end = frame(DATA, END_STREAM, 1, b"three");
    assert_eq!(whole(&[data(1, "one"), data(1, "two"), end]), [frame(DATA, END_STREAM, 1, b"onetwothree")]);
    assert_eq!(whole(&[data(1, "one"), data(1, "")]), [data(1, "one")]);
}

#[test]
fn what_is_no_run_stays_as_it_is() {
    let head = frame(HEADERS, 4, 1, b"head");
    for all in [
        vec![data(1, "one"), data(3, "other"), data(1, "two")],
        vec![data(1, "one"), head.clone(), data(1, "two")],
        vec![head.clone(), head],
        vec![frame(DATA, END_STREAM, 1, b"one"), data(1, "an error")],
        vec![data(1, "one"), frame(DATA, PADDED, 1, b"\x01two\0")],
        vec![frame(DATA, PADDED, 1, b"\x01one\0"), data(1, "two")],
        vec![data(1, &"x".repeat(LONGEST - HEAD)), data(1, "y")],
    ] {
        assert_eq!(whole(&all), all);
    }
    let all = [data(1, &"x".repeat(LONGEST - HEAD - 1)), data(1, "y")];
    assert_eq!(whole(&all), [data(1, &("x".repeat(LONGEST - HEAD - 1) + "y"))]);
}

#[test]
fn a_frame_that_is_not_whole_waits_for_nothing() {
    let all = bytes(&[data(1, "one"), data(1, "two"), data(1, "three"), data(1, "four")]);
    // The header of "three", and one byte of it, come with what is before.
    let cut = 2 * (HEAD + 3) + HEAD + 1;
    let mut first = all[..cut].to_vec();
    let mut joiner = Joiner::new(0);
    assert_eq!(joiner.join(&mut first), cut - HEAD);
    let out = joined(0, &all, &[cut]);
    assert_eq!(frames(&out), [data(1, "onetwo"), data(1, "three"), data(1, "four")]);
}

#[test]
fn the_preface_passes() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let all = [&preface[..], &bytes(&[data(1, "one"), data(1, "two")])].concat();
    for pieces in [&[][..], &[7], &[24], &[24, 3]] {
        let out = joined(preface.len(), &all, pieces);
        assert_eq!(&out[..preface.len()], preface);
        assert!(!frames(&out[preface.len()..]).is_empty());
    }
}

/// All but DATA as it is, and of DATA what a stream's reader learns.
fn meaning(all: &[Frame]) -> Vec<Frame> {
    let mut meaning: Vec<Frame> = Vec::new();
    for next in all {
        match meaning.last_mut() {
            Some(run)
                if (run.kind, run.flags, run.stream) == (DATA, 0, next.stream)
                    && next.kind == DATA
                    && next.flags <= END_STREAM =>
            {
                run.payload.extend_from_slice(&next.payload);
                run.flags = next.flags;
            }
            _ => meaning.push(next.clone()),
        }
    }
    meaning
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![4 => 0_usize..200, 1 => 0_usize..3 * LONGEST];
    (
        prop_oneof![4 => Just(DATA), 1 => 1_u8..10],
        prop_oneof![6 => Just(0), 1 => any::<u8>()],
        1_u32..3,
        payload,
        any::<u8>(),
    )
        .prop_map(|(kind, flags, stream, length, byte)| frame(kind, flags, stream, &vec![byte; length]))
}

proptest! {
    #[test]
    fn frames_mean_the_same_however_they_come(
        all in proptest::collection::vec(any_frame(), 0..40),
        pieces in proptest::collection::vec(1_usize..5_000, 0..40),
    ) {
        let sent = bytes(&all);
        let got = frames(&joined(0, &sent, &pieces));
        prop_assert_eq!(meaning(&got), meaning(&all));
        let longest = all.iter().map(|frame| frame.payload.len()).max().unwrap_or(0);
        prop_assert!(got.iter().all(|frame| frame.payload.len() <= longest.max(LONGEST - HEAD)));
    }

    #[test]
    fn garbage_does_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), preface in 0_usize..30) {
        let count = Joiner::new(preface).join(&mut bytes);
        prop_assert!(count <= bytes.len());
    }
}
