//! Why something happened, once: kernel counter index, metric label and doc table come from this one list.

macro_rules! reasons {
    ($($(#[$attr:meta])* $variant:ident = $label:literal, $doc:literal;)*) => {
        /// What happened to a connection or a message, or which limit was met.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Reason { $(#[doc = $doc] $(#[$attr])* $variant,)* }

        impl Reason {
            /// In order of the counters' index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Metric label and event text.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// One sentence for people.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

reasons! {
    NotTcp = "not_tcp", "connect() of something other than TCP: left untouched";
    NotEnrolled = "not_enrolled", "the caller's network namespace is not in the mesh: left untouched";
    OwnSocket = "own_socket", "the agent's own socket: left untouched";
    NoTarget = "no_target", "destination is neither a known service nor in a configured prefix: left untouched";
    PassedByRule = "passed_by_rule", "destination is configured to be left alone";
    ToAgent = "to_agent", "connection handed to the in-pod agent listener";
    ToEndpoint = "to_endpoint", "opaque connection sent to an endpoint chosen in the kernel";
    DeniedByRule = "denied_by_rule", "destination is configured to be refused";
    NoEndpoint = "no_endpoint", "service has no endpoint: refused";
    SetGone = "set_gone", "endpoint set vanished twice while choosing: refused";
    BeatStaleOpen = "beat_stale_open", "agent's heartbeat is stale, destination fails open: left untouched";
    BeatStaleClosed = "beat_stale_closed", "agent's heartbeat is stale, destination fails closed: refused";
    ListenerGoneOpen = "listener_gone_open", "no agent listener in the pod, destination fails open: left untouched";
    ListenerGoneClosed = "listener_gone_closed", "no agent listener in the pod, destination fails closed: refused";
    FlowsFullOpen = "flows_full_open", "flow limit reached, destination fails open: left untouched";
    FlowsFullClosed = "flows_full_closed", "flow limit reached, destination fails closed: refused";
    StorageOpen = "storage_open", "no memory for the original destination, destination fails open: left untouched";
    StorageClosed = "storage_closed", "no memory for the original destination, destination fails closed: refused";
    FlowOpened = "flow_opened", "captured connection established and entered in FLOWS";
    FlowClosed = "flow_closed", "captured connection closed and removed from FLOWS";
    FlowLost = "flow_lost", "captured connection could not be entered in FLOWS: the agent closes it";
    DirectOpened = "direct_opened", "connection placed by the kernel established";
    DirectClosed = "direct_closed", "connection placed by the kernel closed";
    StatsFull = "stats_full", "no room for a service's kernel statistics: they are not kept";
    SockAdded = "sock_added", "socket entered for redirection (sk_msg)";
    SockFull = "sock_full", "no room for redirection: the flow stays on TCP";
    Redirected = "redirected", "messages redirected between app and agent, past TCP/IP";
    RedirectBound = "redirect_bound", "direction put on TCP for good: sent too much without its peer speaking";
    RedirectMiss = "redirect_miss", "direction put on TCP for good: the peer's socket is not entered";
    RedirectOff = "redirect_off", "direction put on TCP for good: redirection is switched off";
    OverTcp = "over_tcp", "messages of redirectable flows that went over TCP";
    RedirectedBytes = "redirected_bytes", "bytes redirected between app and agent";
    OverTcpBytes = "over_tcp_bytes", "bytes of redirectable flows that went over TCP";
    EventLost = "event_lost", "event not written: the ring buffer is full";
    PodsFull = "pods_full", "pod not enrolled: PODS is full; its connections are left untouched";
    ServicesFull = "services_full", "address not taken: SERVICES is full; its connections are left untouched";
    PrefixesFull = "prefixes_full", "prefix not taken: PREFIXES is full; its connections are left untouched";
    EndpointsFull = "endpoints_full", "ENDPOINTS is full: the service's connections follow its failure policy";
}

impl Reason {
    pub const COUNT: u32 = Self::ALL.len() as u32;

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The reason behind an index read from a map or an event.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}

/// The documentation's table, checked against the committed one by a test.
#[cfg(any(test, feature = "user"))]
pub fn doc_table() -> alloc::string::String {
    use core::fmt::Write as _;
    let mut table = alloc::string::String::from("| reason | meaning |\n|---|---|\n");
    for reason in Reason::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{}` | {} |", reason.label(), reason.doc());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_labels_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index() as usize, index);
            assert_eq!(Reason::from_index(index as u32), Some(*reason));
            assert_eq!(Reason::ALL.iter().filter(|r| r.label() == reason.label()).count(), 1, "{}", reason.label());
        }
        assert_eq!(Reason::from_index(Reason::COUNT), None);
    }

    #[test]
    fn committed_table_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/REASONS.md");
        if std::env::var_os("UNDERMESH_BLESS").is_some() {
            std::fs::write(path, doc_table()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), doc_table(), "run this test with UNDERMESH_BLESS=1");
    }
}
