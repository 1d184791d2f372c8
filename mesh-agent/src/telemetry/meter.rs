//! How much passed: bytes of heads and bodies, and gRPC messages.

use bytes::Bytes;
use http::{HeaderMap, request};
use std::cell::Cell;

/// One direction of an exchange, while it lasts.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bodies of gRPC consist of messages, which are counted.
    grpc: bool,
    bytes: Cell<u64>,
    messages: Cell<u64>,
    frames: Cell<Frames>,
}

/// Where in a gRPC body the next byte lies (gRPC over HTTP/2, "Length-Prefixed-Message": a flag, four bytes of length,
/// the message).
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    /// Bytes of the prefix that were read, and what of the length they say.
    prefix: u8,
    length: u32,
    /// Bytes of the message that are still to come.
    left: u32,
}

impl Meter {
    pub fn new(grpc: bool) -> Self {
        Self { grpc, ..Self::default() }
    }

    /// A piece of the body passed.
    pub fn count(&self, data: &Bytes) {
        self.bytes.set(self.bytes.get() + data.len() as u64);
        if self.grpc {
            let mut frames = self.frames.get();
            self.messages.set(self.messages.get() + frames.read(data));
            self.frames.set(frames);
        }
    }

    /// Bytes of the body so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Messages that began so far; 0 where it is not gRPC.
    pub fn messages(&self) -> u64 {
        self.messages.get()
    }
}

impl Frames {
    /// Messages whose prefix ends in `data`.
    fn read(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let taken = data.len().min(self.left as usize);
                self.left -= taken as u32;
                data = data.get(taken..).unwrap_or_default();
                continue;
            }
            let Some((byte, rest)) = data.split_first() else { break };
            data = rest;
            // The flag is the prefix' first byte.
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.prefix += 1;
            if self.prefix == 5 {
                begun += 1;
                *self = Self { left: self.length, ..Self::default() };
            }
        }
        begun
    }
}

/// Bytes of a request's head as HTTP/1.1 would write it; what HTTP/2 compresses it to depends on what went before.
pub fn request_head(parts: &request::Parts) -> u64 {
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let authority = parts.uri.authority().map_or(0, |authority| "host: \r\n".len() + authority.as_str().len());
    let line = parts.method.as_str().len() + target + "  HTTP/1.1\r\n".len();
    (line + authority) as u64 + fields(&parts.headers)
}

/// As [`request_head`], of a response's.
pub fn response_head(headers: &HeaderMap) -> u64 {
    "HTTP/1.1 200 \r\n".len() as u64 + fields(headers)
}

fn fields(headers: &HeaderMap) -> u64 {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    (fields + "\r\n".len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [&[0, 0, 0, 0, 3][..], b"abc", &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        for piece in 1..=stream.len() {
            let meter = Meter::new(true);
            stream.chunks(piece).for_each(|data| meter.count(&Bytes::copy_from_slice(data)));
            assert_eq!((meter.messages(), meter.bytes()), (3, stream.len() as u64), "pieces of {piece}");
        }
        let plain = Meter::new(false);
        plain.count(&Bytes::from(stream));
        assert_eq!(plain.messages(), 0);
    }

    #[test]
    fn a_head_is_as_long_as_it_is_written() {
        let written = "GET /a?b HTTP/1.1\r\nhost: shop\r\naccept: */*\r\n\r\n";
        let (parts, ()) = Request::get("http://shop/a?b").header("accept", "*/*").body(()).unwrap().into_parts();
        assert_eq!(request_head(&parts), written.len() as u64);
        let headers = HeaderMap::from_iter([(http::header::SERVER, http::HeaderValue::from_static("x"))]);
        assert_eq!(response_head(&headers), "HTTP/1.1 200 \r\nserver: x\r\n\r\n".len() as u64);
    }
}
