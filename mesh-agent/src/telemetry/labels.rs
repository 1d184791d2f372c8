//! The closed lists that appear as label values; each exists once, with its meaning, for metrics, logs and docs.

use std::fmt;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The label's value.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// One line for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

labels! {
    /// Why the agent answered itself or broke off: Envoy's short response flags (SEMANTICS §6).
    Flag {
        NoRoute = "NR", "No route matches the request.";
        NoCluster = "NC", "The route's destination does not exist.";
        NoHealthyUpstream = "UH", "No endpoint is ready.";
        UpstreamConnectionFailure = "UF", "No connection to the endpoint could be made.";
        UpstreamConnectionTermination = "UC", "The endpoint closed its connection before the response.";
        UpstreamReset = "UR", "The endpoint reset the stream.";
        LocalReset = "LR", "The agent reset the stream.";
        UpstreamOverflow = "UO", "A limit on connections or requests was reached.";
        UpstreamProtocolError = "UPE", "The endpoint broke its protocol.";
        UpstreamRequestTimeout = "UT", "The request's time was over.";
        UpstreamRetryExhausted = "URX", "The attempts are used up.";
        StreamIdleTimeout = "SI", "Nothing moved on the stream for too long.";
        DurationTimeout = "DT", "The connection or stream reached its greatest age.";
        DownstreamTermination = "DC", "The client went away first.";
        DownstreamProtocolError = "DPE", "The client broke its protocol.";
        OverloadManager = "OM", "The agent sheds load: its own memory or descriptors run out.";
    }
}

labels! {
    /// Why a connection to an endpoint failed.
    ConnectError {
        Refused = "refused", "The endpoint refused the connection (RST to SYN).";
        Timeout = "timeout", "Nothing answered within the connect time-out.";
        Unreachable = "unreachable", "No route to the endpoint, or an ICMP error.";
        Reset = "reset", "The endpoint reset the connection, or closed it before it was of use.";
        Handshake = "handshake", "The protocol's handshake failed (HTTP/2 SETTINGS).";
        Exhausted = "exhausted", "The node is out of descriptors, ports or memory.";
        Other = "other", "Anything else; the log has the error.";
    }
}

labels! {
    /// What allowed a request to be sent again.
    RetryReason {
        ConnectFailure = "connect-failure", "No connection was made: the request was never sent.";
        RefusedStream = "refused-stream", "REFUSED_STREAM: the endpoint did not process it (RFC 9113 §8.7).";
        GoAway = "goaway", "The stream is beyond GOAWAY's last stream id (RFC 9113 §6.8).";
        Policy = "policy", "A retry policy of the user's.";
    }
}

impl ConnectError {
    /// The reason behind an IO error of `connect()` or of the first use of a connection.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::ConnectionRefused => Self::Refused,
            K::TimedOut => Self::Timeout,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => Self::Unreachable,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => Self::Reset,
            K::AddrNotAvailable | K::OutOfMemory => Self::Exhausted,
            // Descriptors of the process (EMFILE) and of the system (ENFILE) have no kind of their own.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Self::Exhausted,
            _ => Self::Other,
        }
    }
}

/// A set of flags. Prints Envoy's form: `UF,URX`, or `-` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub const fn with(self, flag: Flag) -> Self {
        Self(self.0 | 1 << flag as u32)
    }

    pub const fn contains(self, flag: Flag) -> bool {
        self.0 & 1 << flag as u32 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl From<Flag> for ResponseFlags {
    fn from(flag: Flag) -> Self {
        Self::NONE.with(flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for flag in Flag::ALL.iter().filter(|flag| self.contains(**flag)) {
            write!(f, "{separator}{flag}")?;
            separator = ",";
        }
        if separator.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn flags_print_like_envoys() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let flags = ResponseFlags::from(Flag::UpstreamRetryExhausted).with(Flag::UpstreamConnectionFailure);
        assert_eq!(flags.to_string(), "UF,URX");
        assert!(flags.contains(Flag::UpstreamRetryExhausted) && !flags.contains(Flag::NoRoute));
        assert!(Flag::ALL.len() <= 32, "one bit each");
    }

    #[test]
    fn labels_are_distinct() {
        let mut labels: Vec<_> = Flag::ALL.iter().map(|f| f.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Flag::ALL.len());
    }

    #[test]
    fn io_errors_have_reasons() {
        assert_eq!(ConnectError::of(&ErrorKind::ConnectionRefused.into()), ConnectError::Refused);
        assert_eq!(ConnectError::of(&Error::from_raw_os_error(24)), ConnectError::Exhausted);
        assert_eq!(ConnectError::of(&Error::from_raw_os_error(113)), ConnectError::Unreachable);
        assert_eq!(ConnectError::of(&Error::other("x")), ConnectError::Other);
    }
}
