//! `proc_net(5)`, `proc_pid_fd(5)`: finds the process that has a socket or a pipe open, for messages.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a process is searched for in /proc. The supervisor does nothing else meanwhile, and the
/// name is only a part of an error message.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(100);

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The flag of a listening socket in `/proc/net/unix` (`SO_ACCEPTCON`).
const ACCEPTS: u32 = 1 << 16;

/// The process that has a socket or pipe open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Process {
        pid: u32,
        command: String,
    },
    /// A process whose descriptors this one may not see.
    Hidden,
}

/// Finds the process that listens at a TCP address, or at one that overlaps with it. `None` if no socket
/// listens there, or the search took too long.
pub(crate) fn of_tcp(wanted: SocketAddr, v6only: bool) -> Option<Holder> {
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let mut found = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(file) = File::open(table) else { continue };
        for line in BufReader::new(file).lines().skip(1).map_while(Result::ok) {
            let Some((address, state, inode)) = tcp_line(&line) else { continue };
            // Listening sockets come first in the table; the connections after them may be very many.
            if state != LISTENS || Instant::now() > deadline {
                break;
            }
            if overlap(wanted, address, v6only) {
                found.push((address != wanted, inode));
            }
        }
    }
    // Prefer a socket at the very address.
    found.sort_unstable();
    let (_, inode) = found.first()?;
    holder(&format!("socket:[{inode}]"), deadline)
}

/// Finds the process that listens on a unix socket at a path.
pub(crate) fn of_unix(path: &Path) -> Option<Holder> {
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let file = File::open("/proc/self/net/unix").ok()?;
    let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
    let mut lines = lines.take_while(|_| Instant::now() <= deadline);
    let inode = lines.find_map(|line| unix_line(&line, path))?;
    holder(&format!("socket:[{inode}]"), deadline)
}

/// Finds the process that reads from the pipe that is stderr of `pid`.
pub(crate) fn other_end(pid: u32) -> Option<Holder> {
    let link = fs::read_link(format!("/proc/{pid}/fd/2")).ok()?;
    // Other processes of the daemon have the pipe open as well, but for writing. This is called by a command,
    // which may take longer than a supervisor.
    let deadline = Instant::now() + 10 * SEARCH_TIMEOUT;
    holder_where(deadline, |other, fd| {
        other != pid && fs::read_link(fd).is_ok_and(|at| at == link) && !writes(other, fd)
    })
}

/// Returns whether a descriptor is open for writing only.
fn writes(pid: u32, fd: &Path) -> bool {
    let number = fd.file_name().unwrap_or_default().to_string_lossy();
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.is_some_and(|flags| flags.trim().ends_with('1'))
}

fn holder(link: &str, deadline: Instant) -> Option<Holder> {
    holder_where(deadline, |_, fd| fs::read_link(fd).is_ok_and(|at| at.as_os_str() == link))
}

/// The process with the lowest number that has a descriptor for which `is` is true: usually the one that
/// created it, and not a child that shares it.
fn holder_where(deadline: Instant, is: impl Fn(u32, &Path) -> bool) -> Option<Holder> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The descriptors of other users' processes are not visible.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if Instant::now() > deadline {
                return None;
            }
            if is(pid, &descriptor.path()) {
                return Some(Holder::Process { pid, command: command(pid) });
            }
        }
    }
    Some(Holder::Hidden)
}

fn command(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().chars().filter(|c| !c.is_control()).collect()
}

/// Address, state and inode in a line of `/proc/net/tcp`.
fn tcp_line(line: &str) -> Option<(SocketAddr, &str, u64)> {
    let mut columns = line.split_whitespace();
    let address = tcp_address(columns.nth(1)?)?;
    let state = columns.nth(1)?;
    Some((address, state, columns.nth(5)?.parse().ok()?))
}

/// Parses `0100007F:1F90`: an address in words of native byte order, and a port in hexadecimal.
fn tcp_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Returns whether two addresses exclude each other. A socket `held` at `[::]` is assumed to accept IPv4 as
/// well, which the table does not show.
fn overlap(wanted: SocketAddr, held: SocketAddr, v6only: bool) -> bool {
    let (ours, theirs) = (wanted.ip().to_canonical(), held.ip().to_canonical());
    let any = ours.is_unspecified() || theirs.is_unspecified();
    wanted.port() == held.port()
        && match (ours, theirs) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                ours == theirs || any
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => theirs.is_unspecified(),
            (IpAddr::V6(_), IpAddr::V4(_)) => ours.is_unspecified() && !v6only,
        }
}

/// The inode in a line of `/proc/net/unix`, if it is of a socket that listens at `path`.
fn unix_line(line: &str, path: &Path) -> Option<u64> {
    let mut rest = line;
    let mut column = || {
        rest = rest.trim_start();
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        word
    };
    let words: [&str; 7] = std::array::from_fn(|_| column());
    let flags = u32::from_str_radix(words[3], 16).ok()?;
    (flags & ACCEPTS != 0 && Path::new(rest) == path).then(|| words[6].parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn this() -> Option<Holder> {
        Some(Holder::Process { pid: std::process::id(), command: command(std::process::id()) })
    }

    #[test]
    fn listeners_of_each_kind_are_found() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(of_tcp(four, true), None, "closed");
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = four.local_addr().unwrap();
        assert_eq!(of_tcp(at, true), this());
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port());
        assert_eq!(of_tcp(any, true), this(), "included");
        let six = TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(of_tcp(six.local_addr().unwrap(), true), this());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with a space.sock");
        assert_eq!(of_unix(&path), None);
        let _unix = UnixListener::bind(&path).unwrap();
        assert_eq!(of_unix(&path), this());
    }

    #[test]
    fn overlapping_addresses_are_recognized() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        for (wanted, held, v6only, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true, true),
            ("127.0.0.1:80", "127.0.0.1:81", true, false),
            ("127.0.0.1:80", "127.0.0.2:80", true, false),
            ("0.0.0.0:80", "127.0.0.2:80", true, true),
            ("127.0.0.1:80", "[::]:80", true, true),
            ("127.0.0.1:80", "[::1]:80", true, false),
            ("[::]:80", "0.0.0.0:80", true, false),
            ("[::]:80", "0.0.0.0:80", false, true),
            ("[::1]:80", "127.0.0.1:80", false, false),
        ] {
            assert_eq!(overlap(at(wanted), at(held), v6only), expected, "{wanted} {held} {v6only}");
        }
    }

    #[test]
    fn table_lines_are_parsed() {
        let line = "  12: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
                    1000        0 68011 1 0000000000000000 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let at = "127.0.0.1:8080".parse().unwrap();
            assert_eq!(tcp_line(line), Some((at, LISTENS, 68011)));
        }
        for line in ["", "x", "0: 01:1 0 0A", "0: zz00007F:1F90 0:0 0A 0 0 0 0 0 1"] {
            assert_eq!(tcp_line(line), None, "{line}");
        }
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4242 /run/a b.sock";
        assert_eq!(unix_line(line, Path::new("/run/a b.sock")), Some(4242));
        assert_eq!(unix_line(line, Path::new("/run/a")), None);
        assert_eq!(unix_line("0: 2 0 0 1 1 7 /s", Path::new("/s")), None, "it only connects");
    }
}
