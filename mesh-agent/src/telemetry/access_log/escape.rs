//! What could end a line or a quoted value is escaped. Nearly nothing needs it: one look, and the bytes stay where they are.

use std::io::Write as _;

/// Escapes `out` from `from` on for a line of text; bytes that are no UTF-8 become `\xNN`.
pub(super) fn text(out: &mut Vec<u8>, from: usize) {
    if !is_plain(out.get(from..).unwrap_or_default()) {
        escape_text(out, from);
    }
}

/// The same for a JSON string (RFC 8259 §7); bytes that are no UTF-8 become U+FFFD: JSON has no way to say them.
pub(super) fn json(out: &mut Vec<u8>, from: usize) {
    if !is_plain(out.get(from..).unwrap_or_default()) {
        escape_json(out, from);
    }
}

#[cold]
fn escape_text(out: &mut Vec<u8>, from: usize) {
    let raw = out.split_off(from);
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if ends_lines(c) && short(c).is_none() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| hex(byte, out));
                }
                c => put(c, out),
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(*byte, out));
    }
}

#[cold]
fn escape_json(out: &mut Vec<u8>, from: usize) {
    let raw = out.split_off(from);
    for c in String::from_utf8_lossy(&raw).chars() {
        match c {
            c if ends_lines(c) && short(c).is_none() => {
                // Writing to a Vec does not fail. All of them are of the basic plane: four digits.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => put(c, out),
        }
    }
}

/// Printable ASCII without quotes and backslashes. Eight bytes at a time; the last eight may overlap those before.
fn is_plain(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk() else {
        return text.iter().all(|byte| matches!(byte, b' '..0x7f) && !matches!(byte, b'"' | b'\\'));
    };
    text.as_chunks().0.iter().chain([last]).fold(0, |odd, eight| odd | odd_ones(u64::from_le_bytes(*eight))) == 0
}

/// Not zero where one of eight bytes is not plain.
fn odd_ones(eight: u64) -> u64 {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // Subtraction borrows into the top bit of a byte that is zero, or less than what is taken from it.
    let zero = |bytes: u64| bytes.wrapping_sub(all(1)) & !bytes;
    let control = eight.wrapping_sub(all(b' ')) & !eight;
    let quote = zero(eight ^ all(b'"')) | zero(eight ^ all(b'\\')) | zero(eight ^ all(0x7f));
    (eight | control | quote) & all(0x80)
}

fn put(c: char, out: &mut Vec<u8>) {
    match short(c) {
        Some(short) => out.extend([b'\\', short]),
        None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// The letter after the backslash.
fn short(c: char) -> Option<u8> {
    Some(match c {
        '"' => b'"',
        '\\' => b'\\',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        _ => return None,
    })
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// Control characters, and the separators where some readers break lines.
fn ends_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_plain_byte(byte: u8) -> bool {
        (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
    }

    #[test]
    fn every_byte_is_told_at_every_place() {
        for length in [1, 7, 8, 9, 16, 23] {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(is_plain(&text), is_plain_byte(byte), "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn as_one_by_one(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'~'), any::<u8>()], 0..40)) {
            prop_assert_eq!(is_plain(&text), text.iter().all(|byte| is_plain_byte(*byte)));
        }
    }
}
