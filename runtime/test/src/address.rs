use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the TCP address.
    ///
    /// # Panics
    ///
    /// If it is the address of a unix socket.
    #[track_caller]
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Address::Tcp(addr) => *addr,
            Address::Unix(path) => {
                panic!("{} is a unix socket: use `Address::unix`", path.display())
            }
        }
    }

    /// Returns the path of the unix socket.
    ///
    /// # Panics
    ///
    /// If it is a TCP address.
    #[track_caller]
    #[must_use]
    pub fn unix(&self) -> &Path {
        match self {
            Address::Tcp(addr) => panic!("{addr} is a TCP address: use `Address::tcp`"),
            Address::Unix(path) => path,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => addr.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    /// Parses an address as `status --json` shows it: `127.0.0.1:8080` or `unix:/path`.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn display_and_parse_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/hello/http.sock"] {
            assert_eq!(text.parse::<Address>().map(|it| it.to_string()).as_deref(), Ok(text));
        }
        assert!("localhost:80".parse::<Address>().is_err());
    }
}
