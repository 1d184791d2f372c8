//! What could end a line or a quoted value is escaped. Nearly nothing needs it: one look, and the bytes stay where they are.

use std::io::Write as _;

/// Escapes `out` from `from` on for a line of text; bytes that are no UTF-8 become `\xNN`.
pub(super) fn text(out: &mut Vec<u8>, from: usize) {
    let Some(raw) = unsafe_tail(out, from) else { return };
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

/// The same for a JSON string (RFC 8259 §7); bytes that are no UTF-8 become U+FFFD: JSON has no way to say them.
pub(super) fn json(out: &mut Vec<u8>, from: usize) {
    let Some(raw) = unsafe_tail(out, from) else { return };
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

/// Cuts the tail off where it is not plain.
fn unsafe_tail(out: &mut Vec<u8>, from: usize) -> Option<Vec<u8>> {
    // Without an early end the compiler looks at many bytes at once.
    let plain = |byte: &u8| (*byte >= b' ') & (*byte < 0x7f) & (*byte != b'"') & (*byte != b'\\');
    let tail = out.get(from..)?;
    (!tail.iter().fold(true, |all, byte| all & plain(byte))).then(|| out.split_off(from))
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
