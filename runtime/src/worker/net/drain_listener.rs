//! Closing a listener that no worker accepts on after this one, because the next generation does not declare
//! it or the daemon stops.
//!
//! Closing a listening socket resets every connection in its queue. Therefore new connections are refused
//! first ([`refuse_new`]), then the queue is accepted until it is empty and no handshake is pending
//! ([`has_pending_handshakes`]), and only then is the socket closed ([`close`]).
//!
//! Each of these changes the socket itself, not only this worker's descriptor. That is allowed here because
//! no other process accepts on it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::libc;
use rustix::net::Shutdown;
use socket2::{SockFilter, SockRef};

use super::Addr;

/// How long handshakes that have begun may take until they are in the queue: the round trip to a
/// distant client. A shorter time resets clients, a longer one delays the end of the drain.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);

/// The time until the second look at such handshakes; it doubles with each look.
pub(super) const FIRST_LOOK_DELAY: Duration = Duration::from_millis(5);

/// How long one look at the handshakes may take. It blocks its thread, so that other connections
/// wait; when the table is too long for it, a handshake is assumed to be under way.
const LOOK_TIMEOUT: Duration = Duration::from_millis(20);

/// The kernel's lists of the TCP sockets of this network namespace (proc(5)).
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// The state `TCP_SYN_RECV` in these tables: a handshake that waits for the client's last segment.
const SYN_RECV: &str = "03";

/// The offset of the flags in a TCP header, and the flag that requests a connection (RFC 9293 §3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;

/// Refuses new connections without touching those in the queue. Returns the time up to which a handshake that
/// has already begun may still add one to the queue.
pub(crate) fn refuse_new(socket: &OwnedFd, addr: &Addr) -> Instant {
    let now = Instant::now();
    let kept_out = match addr {
        // From here on connect(2) fails with ECONNREFUSED, while accept(2) still works.
        Addr::Unix(_) => {
            rustix::net::shutdown(socket, Shutdown::Read).map(|()| now).map_err(io::Error::from)
        }
        // A SYN gets no answer. The client retransmits it after a second, when the socket is closed, and is
        // refused.
        Addr::Tcp(_) => {
            SockRef::from(socket).attach_filter(&no_requests()).map(|()| now + HANDSHAKE_TIMEOUT)
        }
    };
    kept_out.unwrap_or_else(|error| {
        tracing::debug!(%error, listener = %addr,
            "cannot reject new connections to a removed listener");
        now
    })
}

/// Returns whether a handshake with the listener at `addr` has begun and not ended. If there is none after
/// [`refuse_new`], no further connection will reach the queue. Returns true if the tables cannot be read.
pub(super) fn has_pending_handshakes(addr: &Addr) -> bool {
    match addr {
        Addr::Unix(_) => false,
        Addr::Tcp(addr) => {
            let until = Instant::now() + LOOK_TIMEOUT;
            TABLES.iter().any(|table| match std::fs::File::open(table) {
                Ok(table) => has_handshake(table, addr.port(), until).unwrap_or(true),
                // Only the table of IPv6 may be missing: on a host without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && *table != TABLES[0] => {
                    false
                }
                Err(_) => true,
            })
        }
    }
}

/// Returns whether the table lists a handshake with local port `port`. A line has number, local address and
/// port, remote address and port, state and more; ports are hexadecimal. Returns true if the table is too
/// long to be read by `until`.
fn has_handshake(table: impl io::Read, port: u16, until: Instant) -> io::Result<bool> {
    for line in io::BufRead::lines(io::BufReader::new(table)).skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':'));
        let is_ours = local.is_some_and(|(_, its)| u16::from_str_radix(its, 16) == Ok(port));
        if is_ours && fields.nth(1) == Some(SYN_RECV) || Instant::now() >= until {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Stops listening on the socket, for all its descriptors, in other threads too. Call it when the queue is
/// empty.
pub(super) fn close(socket: &OwnedFd) {
    // Fails if the socket is no longer listening, which is the desired state.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Returns whether accept(2) failed because the socket is no longer listening: another thread may have called
/// [`close`] first.
pub(super) fn has_ended(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INVAL)
}

/// Returns a classic BPF program for `SO_ATTACH_FILTER` (socket(7)) that drops segments with the SYN flag and
/// accepts all others.
fn no_requests() -> [SockFilter; 4] {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const IF_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, yes, no, value| SockFilter::new(code as u16, yes, no, value);
    [
        step(LOAD, 0, 0, TCP_FLAGS),
        step(IF_SET, 0, 1, SYN),
        step(RETURN, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn pending_handshake_is_found_in_proc_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n   \
                     1: 0100007F:1F90 0100007F:9C40 03 00000000:00000000 01:00000000 00000000\n   \
                     2: 0100007F:1F91 0100007F:9C41 01 00000000:00000000 00:00000000 00000000\n";
        let later = Instant::now() + Duration::from_secs(60);
        let has = |port, until| has_handshake(table.as_bytes(), port, until).unwrap();
        assert!(has(8080, later) && !has(8081, later));
        assert!(has(8081, Instant::now()), "there was no time to look");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let _waits = TcpStream::connect(addr).unwrap();
        // This handshake is complete: the connection is in the queue.
        let table = std::fs::File::open(TABLES[0]).unwrap();
        assert!(!has_handshake(table, addr.port(), later).unwrap());
    }

    #[test]
    fn refuse_new_on_tcp_keeps_queued_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let waits = TcpStream::connect(addr).unwrap();
        let listener = OwnedFd::from(listener);
        assert!(refuse_new(&listener, &Addr::Tcp(addr)) > Instant::now());
        let late = std::thread::spawn(move || TcpStream::connect(addr).map_err(|e| e.kind()));
        let listener = TcpListener::from(listener);
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, waits.local_addr().unwrap());
        // The filter does not affect accepted connections.
        io::Write::write_all(&mut &accepted, b"x").unwrap();
        io::Read::read_exact(&mut &waits, &mut [0]).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let copy = OwnedFd::from(listener.try_clone().unwrap());
        close(&copy);
        assert_eq!(late.join().unwrap().unwrap_err(), io::ErrorKind::ConnectionRefused);
        assert!(has_ended(&listener.accept().unwrap_err()));
    }

    #[test]
    fn refuse_new_on_unix_socket_keeps_queued_connections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let listener = OwnedFd::from(listener);
        assert!(refuse_new(&listener, &Addr::Unix(None)) <= Instant::now());
        let refused = || UnixStream::connect(&path).unwrap_err().kind();
        assert_eq!(refused(), io::ErrorKind::ConnectionRefused);
        let listener = UnixListener::from(listener);
        listener.accept().unwrap();
        listener.set_nonblocking(true).unwrap();
        let error = listener.accept().unwrap_err();
        assert!(has_ended(&error) || error.kind() == io::ErrorKind::WouldBlock, "{error}");
    }
    /// Clients connect continuously while listeners are closed: each is answered or refused, none is reset.
    #[test]
    fn closing_under_load_resets_no_connection() {
        let ends: Vec<_> = (0..16).map(|_| std::thread::spawn(end_under_load)).collect();
        let answered: u64 = ends.into_iter().map(|end| end.join().unwrap()).sum();
        assert!(answered > 1000, "{answered}");
    }

    /// Closes a listener under load. Returns how many clients were answered.
    fn end_under_load() -> u64 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = move || {
            let mut answered = 0;
            loop {
                match TcpStream::connect(addr) {
                    Ok(stream) => io::Read::read_exact(&mut &stream, &mut [0]).unwrap(),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        return answered;
                    }
                    Err(error) => panic!("{error}"),
                }
                answered += 1;
            }
        };
        let clients: Vec<_> = (0..4).map(|_| std::thread::spawn(client)).collect();
        let answer = |accepted: io::Result<(TcpStream, _)>| {
            let (stream, _) = accepted.unwrap();
            io::Write::write_all(&mut &stream, b"x").unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = io::Read::read(&mut &stream, &mut [0]);
        };
        for _ in 0..100 {
            answer(listener.accept());
        }
        listener.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        let until = refuse_new(&socket, &Addr::Tcp(addr));
        // At most 4 handshakes are pending now: 4 clients, each with one connection. 100 leaves a margin.
        let mut left = 100;
        loop {
            let over = Instant::now() >= until;
            match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if over {
                        break;
                    }
                    std::thread::yield_now();
                }
                accepted => {
                    answer(accepted);
                    left -= 1;
                    assert!(left > 0, "newcomers are not kept out");
                }
            }
        }
        close(&socket);
        drop((socket, listener));
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    }
}
