//! Who holds an address that cannot be bound, as `/proc` tells (proc_net(5), proc_pid_fd(5)).
//!
//! For a message only: whatever cannot be read is left out, and the search is over after a moment.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::Address;

/// Longer than a look at thousands of processes takes, and short enough for a supervisor.
const LIMIT: Duration = Duration::from_millis(100);

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The flag of a listening socket in `/proc/net/unix`.
const ACCEPTS: u32 = 0x10000;

/// Who listens at an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This process.
    Myself,
    Process {
        pid: u32,
        name: String,
    },
    /// Somebody whose descriptors this process may not look at, or who is in another namespace.
    Hidden,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Myself => f.write_str("this daemon listens there already"),
            Holder::Process { pid, name } => write!(f, "process {pid} ({name}) listens there"),
            Holder::Hidden => f.write_str("a process that cannot be seen from here listens there"),
        }
    }
}

/// Who listens at `addr` or at an address that includes it; `None` where `/proc` does not tell.
pub(crate) fn of(addr: &Address) -> Option<Holder> {
    let until = Instant::now() + LIMIT;
    let inode = match addr {
        Address::Tcp(addr) => ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .find_map(|table| tcp_inode(BufReader::new(File::open(table).ok()?), *addr)),
        Address::Unix(path) => {
            unix_inode(BufReader::new(File::open("/proc/net/unix").ok()?), path, until)
        }
    }?;
    Some(process_with(inode, until).unwrap_or(Holder::Hidden))
}

/// The listening sockets are the first of the table, which may be long.
fn tcp_inode(table: impl BufRead, wanted: SocketAddr) -> Option<u64> {
    for line in table.lines().skip(1) {
        let line = line.ok()?;
        let mut fields = line.split_ascii_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        if state != LISTENS {
            return None;
        }
        if overlap(socket_addr(local)?, wanted) {
            return fields.nth(5)?.parse().ok();
        }
    }
    None
}

/// The address is in the byte order of this machine, word by word; the port is a plain number.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Whether one is in the other's way. `[::]` may stand for IPv4 too.
fn overlap(held: SocketAddr, wanted: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    let same_family = held.is_ipv4() == wanted.is_ipv4();
    let both = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    held.port() == wanted.port()
        && match same_family {
            true => held.ip() == wanted.ip() || any(held.ip()) || any(wanted.ip()),
            false => both(held.ip()) || both(wanted.ip()),
        }
}

fn unix_inode(table: impl BufRead, wanted: &Path, until: Instant) -> Option<u64> {
    for line in table.split(b'\n').skip(1) {
        let line = line.ok()?;
        if Instant::now() > until {
            return None;
        }
        // Num RefCount Protocol Flags Type St Inode Path; a path may hold spaces.
        if !line.ends_with(wanted.as_os_str().as_bytes()) {
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let mut fields = text.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode: u64 = fields.nth(2)?.parse().ok()?;
        let path = line.iter().position(|byte| *byte == b'/').and_then(|at| line.get(at..));
        if flags & ACCEPTS != 0 && path == Some(wanted.as_os_str().as_bytes()) {
            return Some(inode);
        }
    }
    None
}

fn process_with(inode: u64, until: Instant) -> Option<Holder> {
    let socket = format!("socket:[{inode}]");
    let has = |dir: &Path| {
        let descriptors = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|it| fs::read_link(it.path()).ok())
            .any(|target| target.as_os_str().as_bytes() == socket.as_bytes())
    };
    if has(Path::new("/proc/self")) {
        return Some(Holder::Myself);
    }
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if Instant::now() > until {
            return None;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if has(&entry.path()) {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            return Some(Holder::Process { pid, name: name.trim_end().to_owned() });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn table(lines: &[&str]) -> String {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        [head].iter().chain(lines).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn who_listens_here_is_found() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(addr) else { continue };
            let addr = Address::Tcp(listener.local_addr().unwrap());
            assert_eq!(of(&addr), Some(Holder::Myself), "{addr}");
            drop(listener);
            assert_eq!(of(&addr), None, "{addr}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with a space.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(of(&Address::Unix(path)), Some(Holder::Myself));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_table_is_read_as_far_as_listeners_go() {
        let listens = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let connected = "   1: 0100007F:0050 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0";
        let found =
            |lines: &[&str], addr: &str| tcp_inode(table(lines).as_bytes(), addr.parse().unwrap());
        assert_eq!(found(&[listens, connected], "127.0.0.1:8080"), Some(4711));
        assert_eq!(found(&[listens, connected], "0.0.0.0:8080"), Some(4711));
        assert_eq!(found(&[listens, connected], "[::]:8080"), Some(4711));
        assert_eq!(found(&[listens, connected], "127.0.0.1:80"), None);
        assert_eq!(found(&[connected, listens], "127.0.0.1:8080"), None);
        assert_eq!(found(&["nonsense"], "127.0.0.1:8080"), None);
    }

    #[test]
    fn addresses_that_are_in_each_others_way() {
        let overlap = |a: &str, b: &str| super::overlap(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("0.0.0.0:1", "127.0.0.1:1") && overlap("127.0.0.1:1", "[::]:1"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.2:1") && !overlap("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!overlap("0.0.0.0:1", "[::1]:1") && overlap("[::1]:1", "[::]:1"));
    }
}
