use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a server, as `status --json` shows it: `127.0.0.1:8080` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// Returns the TCP address.
    ///
    /// # Panics
    ///
    /// If the target is a Unix socket.
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Target::Tcp(addr) => *addr,
            Target::Unix(path) => panic!("{} has no TCP address", path.display()),
        }
    }

    /// Returns whether a connection can be made now.
    pub fn accepts(&self) -> bool {
        match self {
            Target::Tcp(addr) => std::net::TcpStream::connect(addr).is_ok(),
            Target::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Target::Unix(path.into())),
            None => text.parse().map(Target::Tcp).map_err(|error| format!("`{text}`: {error}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(addr) => addr.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Target::Tcp(addr)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Target::Unix(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn display_and_parse_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/app/http.sock"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert!("localhost".parse::<Target>().is_err());
    }
}
