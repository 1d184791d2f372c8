//! What the kernel knows of a TCP connection of the agent's own.
//!
//! TCP_INFO (tcp(7)) of the socket, and not sockops' round-trip callbacks: those run with every acknowledgement of every
//! connection, this is one system call (0.3 µs) for who wants to know. Connections that the kernel placed have no socket
//! here; sockops adds theirs to SERVICE_STATS when they close.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;
use std::time::Duration;

/// A TCP connection as its sender's kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time (RFC 6298 §2), µs; bytes past TCP/IP (sk_msg) are not in it. 0: not measured.
    pub srtt_us: u32,
    /// Segments sent again since the connection was made.
    pub retransmits: u32,
    /// Since data was sent.
    pub silent: Duration,
}

/// `None`: no TCP socket. A number that is no socket of the caller's any more gives another's answer: whoever asks must
/// know that it is open.
#[allow(unsafe_code)]
pub fn tcp_info(socket: RawFd) -> Option<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the struct; a number that is no socket is an error.
    let done = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if done != 0 {
        return None;
    }
    // SAFETY: integers only, all of them initialised with zero or by the kernel.
    let info = unsafe { info.assume_init() };
    Some(TcpInfo {
        srtt_us: info.tcpi_rtt,
        retransmits: info.tcpi_total_retrans,
        silent: Duration::from_millis(info.tcpi_last_data_sent.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    #[test]
    fn a_connection_has_a_round_trip_time_and_other_sockets_have_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        let info = tcp_info(client.as_raw_fd()).unwrap();
        assert!(info.srtt_us > 0 && info.srtt_us < 1_000_000, "{info:?}");
        assert_eq!(info.retransmits, 0);
        assert!(info.silent < Duration::from_secs(10), "{info:?}");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(tcp_info(udp.as_raw_fd()), None);
        assert_eq!(tcp_info(-1), None);
    }

    #[test]
    fn what_is_sent_again_is_counted() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // One waits to be accepted; the SYNs of the others are dropped, and sent again after a second.
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                let _ = client.connect(&address);
                client
            })
            .collect();
        let again = || clients.iter().filter_map(|c| tcp_info(c.as_raw_fd())).map(|info| info.retransmits).sum::<u32>();
        let deadline = Instant::now() + Duration::from_secs(30);
        while again() == 0 {
            assert!(Instant::now() < deadline, "no SYN was sent again");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
