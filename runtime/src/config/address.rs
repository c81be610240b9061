//! Listen addresses: text to [`Address`] and back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use super::Address;
use crate::json::{FromJson, Mistake, ToJson, Writer};

/// What an address may be, for messages.
pub(super) const ALLOWED: &str =
    r#"a literal address such as "127.0.0.1:80", "[::1]:80" or "unix:/run/app.sock""#;

/// `sun_path` holds 108 bytes, the last of which is NUL (unix(7)).
const UNIX_PATH_MAX: usize = 107;

impl Address {
    /// Whether it is TCP over IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        matches!(self, Address::Tcp(SocketAddr::V6(_)))
    }

    /// Whether it is a unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Address::Unix(_))
    }

    /// Whether the kernel would refuse to bind both: equal, unless it chooses the port.
    pub(super) fn collides(&self, other: &Address) -> bool {
        self == other && !matches!(self, Address::Tcp(addr) if addr.port() == 0)
    }
}

/// Whether a socket can be bound to `path`: else why not, as a sentence goes on.
pub(super) fn check_unix(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    match length > UNIX_PATH_MAX {
        true => Err(format!(
            "the path of a unix socket has at most {UNIX_PATH_MAX} bytes, and {} has {length}",
            path.display()
        )),
        false => Ok(()),
    }
}

/// The message says what is allowed, so that it can stand behind "`listen.http` is …: ".
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("expected a path behind unix:, such as \"unix:/run/app.sock\"".into()),
                _ if path.starts_with('@') => {
                    Err("abstract sockets have no permissions: give a path".into())
                }
                _ if path.contains('\0') => Err("a path has no NUL byte".into()),
                _ if matches!(path.rsplit('/').next(), Some("" | "." | "..")) => {
                    Err("this is a directory: name the socket in it".into())
                }
                _ => Ok(Address::Unix(PathBuf::from(path))),
            };
        }
        if let Ok(addr) = text.parse() {
            return Ok(Address::Tcp(addr));
        }
        if let Some(message) = of_another_protocol(text) {
            return Err(message);
        }
        let port = |port: &str| port.parse::<u16>().is_ok();
        Err(match text.rsplit_once(':') {
            None if port(text) => {
                format!(
                    "expected an address with its port: \"127.0.0.1:{text}\", or \
                \"0.0.0.0:{text}\" for every interface"
                )
            }
            Some(("" | "*", p)) if port(p) => {
                format!(
                    "expected a literal address: \"127.0.0.1:{p}\", or \"0.0.0.0:{p}\" \
                for every interface"
                )
            }
            Some((host, p)) if port(p) && host.parse::<std::net::Ipv6Addr>().is_ok() => {
                format!("an IPv6 address needs brackets: \"[{host}]:{p}\"")
            }
            Some((host, p)) if port(p) && host.bytes().any(|b| b.is_ascii_alphabetic()) => {
                format!(
                    "host names are not resolved: expected a literal address such as \
                \"127.0.0.1:{p}\""
                )
            }
            _ if text.parse::<std::net::IpAddr>().is_ok() => {
                format!("the port is missing: expected {ALLOWED}")
            }
            _ if text.starts_with('/') => format!("expected \"unix:{text}\" for a unix socket"),
            _ => format!("expected {ALLOWED}"),
        })
    }
}

/// What is said of `udp://…`, `…/udp` and of schemes that say nothing.
fn of_another_protocol(text: &str) -> Option<String> {
    let (scheme, rest) = match (text.split_once("://"), text.rsplit_once('/')) {
        (Some((scheme, rest)), _) => (scheme, rest),
        // As Docker writes it.
        (None, Some((rest, scheme))) => (scheme, rest),
        (None, None) => text.split_once(':')?,
    };
    let address = rest.trim_end_matches('/').parse::<SocketAddr>();
    match scheme.to_ascii_lowercase().as_str() {
        "udp" | "quic" => {
            Some("UDP is not supported yet: a listener is TCP or a unix socket".into())
        }
        "tcp" | "http" | "https" => Some(match address {
            Ok(address) => format!("an address has no protocol: \"{address}\""),
            Err(_) => format!("an address has no protocol: expected {ALLOWED}"),
        }),
        _ => None,
    }
}

impl ToJson for Address {
    fn write(&self, out: &mut Writer) {
        out.display(self);
    }
}

impl FromJson for Address {
    fn read(value: Value) -> Result<Address, Mistake> {
        String::read(value)?.parse().map_err(|error: String| Mistake::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn literals_go_there_and_back() {
        for text in ["127.0.0.1:80", "[::]:80", "[::1]:65535", "unix:/run/a b.sock", "0.0.0.0:0"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = json::to_vec(&address).unwrap();
            assert_eq!(json::from_slice::<Address>(&json).unwrap(), address);
        }
    }

    #[test]
    fn mistakes_are_answered_with_what_would_do() {
        for (text, answer) in [
            (
                "localhost:80",
                "host names are not resolved: expected a literal address such as \"127.0.0.1:80\"",
            ),
            ("8080", "\"127.0.0.1:8080\""),
            (":8080", "\"0.0.0.0:8080\""),
            ("*:8080", "\"0.0.0.0:8080\""),
            ("::1:80", "\"[::1]:80\""),
            ("127.0.0.1", "the port is missing"),
            ("127.0.0.1:70000", "expected a literal address"),
            ("/run/a.sock", "\"unix:/run/a.sock\""),
            ("unix:", "expected a path"),
            ("unix:@a", "abstract"),
            ("unix:/run/", "directory"),
            ("unix:/run/.", "directory"),
            ("unix:..", "directory"),
            ("", "127.0.0.1:80"),
            ("udp://0.0.0.0:53", "UDP is not supported yet: a listener is TCP or a unix socket"),
            ("udp:0.0.0.0:53", "UDP is not supported yet"),
            ("0.0.0.0:53/udp", "UDP is not supported yet"),
            ("tcp://0.0.0.0:80", "an address has no protocol: \"0.0.0.0:80\""),
            ("http://[::]:80/", "an address has no protocol: \"[::]:80\""),
            ("https://example.org", "an address has no protocol: expected a literal"),
        ] {
            let message = text.parse::<Address>().unwrap_err();
            assert!(message.contains(answer), "{text}: {message}");
        }
    }

    #[test]
    fn unix_paths_fit_into_sun_path() {
        let path = |len: usize| PathBuf::from(format!("/{}", "a".repeat(len - 1)));
        assert!(check_unix(&path(107)).is_ok());
        assert!(check_unix(&path(108)).unwrap_err().contains("at most 107 bytes"));
    }
}
