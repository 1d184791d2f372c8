//! What is known about a request when it ends.

use super::labels::ResponseFlags;
use std::time::Duration;

/// One request. Opaque connections are counted by `PortMetrics` instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// HTTP status sent to the client; 0 if none was (`response_code="0"`, as Istio's).
    pub status: u16,
    /// `None` for a request that is not gRPC (an empty label).
    pub grpc_status: Option<u16>,
    pub flags: ResponseFlags,
    /// 1 for a request that was sent once; 0 if it was never sent.
    pub attempts: u8,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
}

/// The labels of `undermesh_requests_total` that differ between requests to one endpoint, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes(u64);

/// gRPC's UNKNOWN.
const UNKNOWN: u16 = 2;
const NOT_GRPC: u16 = 0xff;

impl Codes {
    /// What the far end invents is folded, so that it cannot make series: statuses beyond 599 count as 0, unknown gRPC
    /// codes as UNKNOWN (gRPC's own rule for clients).
    pub(super) fn of(record: &Record) -> Self {
        let status = if record.status < 600 { record.status } else { 0 };
        let grpc = match record.grpc_status {
            None => NOT_GRPC,
            Some(code @ 0..=16) => code,
            Some(_) => UNKNOWN,
        };
        Self(u64::from(record.flags.bits()) << 32 | u64::from(grpc) << 16 | u64::from(status))
    }

    pub(super) fn status(self) -> u16 {
        self.0 as u16
    }

    pub(super) fn grpc_status(self) -> Option<u16> {
        let grpc = (self.0 >> 16) as u16;
        (grpc != NOT_GRPC).then_some(grpc)
    }

    pub(super) fn flags(self) -> ResponseFlags {
        ResponseFlags::from_bits((self.0 >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::Flag;
    use super::*;

    #[test]
    fn codes_keep_what_they_were_given() {
        let flags = ResponseFlags::from(Flag::UpstreamReset);
        let codes = Codes::of(&Record { status: 503, grpc_status: Some(14), flags, ..Record::default() });
        assert_eq!((codes.status(), codes.grpc_status(), codes.flags()), (503, Some(14), flags));
        let plain = Codes::of(&Record { status: 200, ..Record::default() });
        assert_eq!((plain.status(), plain.grpc_status()), (200, None));
    }

    #[test]
    fn inventions_are_folded() {
        let codes = Codes::of(&Record { status: 999, grpc_status: Some(255), ..Record::default() });
        assert_eq!((codes.status(), codes.grpc_status()), (0, Some(UNKNOWN)));
    }
}
