//! Addresses: `127.0.0.1:80`, `[::]:80`, `unix:/run/app.sock`, and short forms for both IP families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A literal address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// One address of a listener as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address; of a short form, the IPv4 one.
    pub address: Address,
    /// The IPv6 address of a short form. A host without IPv6 goes without it.
    pub ipv6: Option<SocketAddr>,
}

/// Why a text is no address to listen on, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressError {
    /// Nothing like an address.
    NotAnAddress,
    /// A port alone; the flag says whether a `:` or `*:` is before it.
    NoIp(u16, bool),
    /// An IP address alone.
    NoPort(IpAddr),
    /// The text behind the last `:` is no port.
    BadPort,
    /// Digits and dots that are no IPv4 address, and a port.
    BadIp(String, u16),
    /// An IPv6 address and a port without brackets.
    NoBrackets(Ipv6Addr, u16),
    /// A host name and a port.
    HostName(u16),
    /// A URL; with the address in it, if there is one.
    Scheme(Option<SocketAddr>),
    /// A URL or suffix of UDP.
    Udp,
    /// A path without `unix:`.
    NoUnix(String),
    /// `unix:` alone.
    NoPath,
    /// An abstract unix socket.
    Abstract,
    /// A NUL byte in a path.
    Nul,
    /// A path that ends like one of a directory.
    Directory,
    /// A path that does not fit into `sun_path`.
    TooLong(PathBuf),
    /// An address that the listener has already.
    Twice(Address),
}

/// What an address may be, for messages.
const ADDRESS_EXAMPLE: &str =
    r#"a literal address such as "127.0.0.1:80", "[::1]:80" or "unix:/run/app.sock""#;

/// `sun_path` holds 108 bytes, the last of which is NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

impl Address {
    /// Whether it is TCP over IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(self, Address::Tcp(SocketAddr::V6(_)))
    }

    /// Whether it is a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Address::Unix(_))
    }

    /// Whether the kernel would refuse to bind both: equal, unless it chooses the port.
    pub fn collides(&self, other: &Address) -> bool {
        self == other && !matches!(self, Address::Tcp(addr) if addr.port() == 0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        text.parse().map(Address::Tcp).map_err(|_| why_not(text))
    }
}

fn unix(path: &str) -> Result<Address, AddressError> {
    if path.is_empty() {
        return Err(AddressError::NoPath);
    }
    if path.starts_with('@') {
        return Err(AddressError::Abstract);
    }
    if path.contains('\0') {
        return Err(AddressError::Nul);
    }
    if matches!(path.rsplit('/').next(), Some("" | "." | "..")) {
        return Err(AddressError::Directory);
    }
    check_socket_path(Path::new(path))?;
    Ok(Address::Unix(PathBuf::from(path)))
}

/// Checks that a socket can be bound to `path`.
pub fn check_socket_path(path: &Path) -> Result<(), AddressError> {
    match path.as_os_str().len() > SOCKET_PATH_MAX {
        true => Err(AddressError::TooLong(path.to_owned())),
        false => Ok(()),
    }
}

fn why_not(text: &str) -> AddressError {
    if text.starts_with('/') {
        return AddressError::NoUnix(text.to_owned());
    }
    if let Some(error) = other_protocol(text) {
        return error;
    }
    if let Ok(port) = text.parse() {
        return AddressError::NoIp(port, false);
    }
    // Also a whole IPv6 address, but more likely one with a port.
    let brackets = text.rsplit_once(':').and_then(|(ip, port)| {
        Some(AddressError::NoBrackets(ip.parse().ok()?, port.parse().ok()?))
    });
    if let Some(error) = brackets {
        return error;
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return AddressError::NoPort(ip);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return AddressError::NotAnAddress };
    let Ok(port) = port.parse() else { return AddressError::BadPort };
    if matches!(host, "" | "*") {
        return AddressError::NoIp(port, true);
    }
    match host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        true => AddressError::BadIp(host.to_owned(), port),
        false if host.bytes().any(|b| b.is_ascii_alphabetic()) => AddressError::HostName(port),
        false => AddressError::NotAnAddress,
    }
}

/// Recognizes `udp://…`, Docker's `…/udp`, and schemes that an address does not need.
fn other_protocol(text: &str) -> Option<AddressError> {
    let (scheme, rest) = match (text.split_once("://"), text.rsplit_once('/')) {
        (Some((scheme, rest)), _) => (scheme, rest),
        (None, Some((rest, scheme))) => (scheme, rest),
        (None, None) => text.split_once(':')?,
    };
    match scheme.to_ascii_lowercase().as_str() {
        "udp" | "quic" => Some(AddressError::Udp),
        "tcp" | "http" | "https" => {
            Some(AddressError::Scheme(rest.trim_end_matches('/').parse().ok()))
        }
        _ => None,
    }
}

impl FromStr for Listen {
    type Err = AddressError;

    /// Parses an address, or a short form for both families: `:80`, `*:80`, `localhost:80`.
    fn from_str(text: &str) -> Result<Listen, AddressError> {
        let port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (ipv4, ipv6, port) = match port {
            Some(("" | "*", port)) => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port),
            Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
                (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port)
            }
            _ => return text.parse().map(|address| Listen { address, ipv6: None }),
        };
        let address = Address::Tcp(SocketAddr::from((ipv4, port)));
        Ok(Listen { address, ipv6: Some(SocketAddr::from((ipv6, port))) })
    }
}

impl Listen {
    /// The address, and that of the other family.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        [self.address.clone()].into_iter().chain(self.ipv6.map(Address::Tcp))
    }
}

/// The parts of a text with commas. The path of a unix socket may have commas, too.
pub(crate) fn split_addresses(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match text.starts_with("unix:") && parts.iter().any(|part| part.parse::<Listen>().is_err()) {
        true => vec![text],
        false => parts,
    }
}

/// Checks that no address of a listener is listed twice.
pub fn check_distinct(listed: &[Listen]) -> Result<(), AddressError> {
    let mut seen: Vec<Address> = Vec::new();
    for listen in listed {
        for address in listen.addresses() {
            if seen.contains(&address) {
                return Err(AddressError::Twice(address));
            }
            seen.push(address);
        }
    }
    Ok(())
}

/// Names under which people look for the address of a listener.
const ADDRESS_WORDS: [&str; 8] =
    ["addr", "address", "bind", "host", "hostname", "listen_addr", "listen_address", "port"];

/// Whether an unknown key was probably meant to set an address.
pub fn is_address_word(key: &str) -> bool {
    ADDRESS_WORDS.contains(&key)
}

/// The address to suggest for the value of such a key.
pub fn suggested_address(written: &str) -> String {
    let written = written.trim();
    let port = written.strip_prefix(':').unwrap_or(written).parse::<u16>();
    match (port, written.parse::<IpAddr>(), written.parse::<SocketAddr>()) {
        (Ok(port), ..) => format!("0.0.0.0:{port}"),
        (_, Ok(ip), _) => SocketAddr::new(ip, 8080).to_string(),
        (.., Ok(address)) => address.to_string(),
        _ => "0.0.0.0:8080".to_owned(),
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::NotAnAddress => write!(f, "expected {ADDRESS_EXAMPLE}"),
            AddressError::NoIp(port, false) => write!(
                f,
                "expected an address with its port: \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" \
                 for every interface"
            ),
            AddressError::NoIp(port, true) => write!(
                f,
                "expected a literal address: \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for \
                 every interface"
            ),
            AddressError::NoPort(ip) => write!(
                f,
                "the port is missing: expected an address such as \"{}\"",
                SocketAddr::new(*ip, 8080)
            ),
            AddressError::BadPort => {
                write!(f, "the port is no number from 0 to 65535: expected {ADDRESS_EXAMPLE}")
            }
            AddressError::BadIp(host, port) => write!(
                f,
                "{host} is no IP address: expected a literal address such as \"127.0.0.1:{port}\""
            ),
            AddressError::NoBrackets(ip, port) => {
                write!(f, "an IPv6 address needs brackets: \"[{ip}]:{port}\"")
            }
            AddressError::HostName(port) => write!(
                f,
                "host names are not resolved: expected a literal address such as \
                 \"127.0.0.1:{port}\""
            ),
            AddressError::Scheme(Some(address)) => {
                write!(f, "an address has no protocol: write \"{address}\"")
            }
            AddressError::Scheme(None) => {
                write!(f, "an address has no protocol: expected {ADDRESS_EXAMPLE}")
            }
            AddressError::Udp => {
                f.write_str("UDP is not supported yet: a listener is TCP or a unix socket")
            }
            AddressError::NoUnix(path) => {
                write!(f, "expected \"unix:{path}\" for a unix socket")
            }
            AddressError::NoPath => {
                f.write_str("expected a path after unix:, such as \"unix:/run/app.sock\"")
            }
            AddressError::Abstract => {
                f.write_str("an abstract socket has no permissions: use a path")
            }
            AddressError::Nul => f.write_str("a path contains no NUL byte"),
            AddressError::Directory => f.write_str("this is a directory: name the socket in it"),
            AddressError::TooLong(path) => write!(
                f,
                "the path of a unix socket has at most {SOCKET_PATH_MAX} bytes, and {} has {}",
                path.display(),
                path.as_os_str().len()
            ),
            AddressError::Twice(address) => write!(f, "{address} is listed twice: remove one"),
        }
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_round_trip() {
        for text in ["127.0.0.1:80", "[::]:80", "[::1]:65535", "unix:/run/a b.sock", "0.0.0.0:0"] {
            assert_eq!(text.parse::<Address>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn errors_name_what_to_write() {
        for (text, answer) in [
            (
                "localhost:80",
                "host names are not resolved: expected a literal address such as \"127.0.0.1:80\"",
            ),
            ("8080", "\"127.0.0.1:8080\""),
            (":8080", "\"0.0.0.0:8080\""),
            ("*:8080", "\"0.0.0.0:8080\""),
            ("::1:80", "\"[::1]:80\""),
            ("127.0.0.1", "the port is missing: expected an address such as \"127.0.0.1:8080\""),
            ("[::1]", "the port is missing: expected an address such as \"[::1]:8080\""),
            ("127.0.0.1:70000", "expected a literal address"),
            (":http", "the port is no number from 0 to 65535"),
            ("256.0.0.1:80", "256.0.0.1 is no IP address"),
            ("/run/a.sock", "\"unix:/run/a.sock\""),
            ("unix:", "expected a path"),
            ("unix:@a", "abstract"),
            ("unix:/a\0", "NUL"),
            ("unix:/run/", "directory"),
            ("unix:/run/.", "directory"),
            ("unix:..", "directory"),
            ("", "127.0.0.1:80"),
            ("udp://0.0.0.0:53", "UDP is not supported yet: a listener is TCP or a unix socket"),
            ("udp:0.0.0.0:53", "UDP is not supported yet"),
            ("0.0.0.0:53/udp", "UDP is not supported yet"),
            ("tcp://0.0.0.0:80", "an address has no protocol: write \"0.0.0.0:80\""),
            ("http://[::]:80/", "an address has no protocol: write \"[::]:80\""),
            ("https://example.org", "an address has no protocol: expected a literal"),
        ] {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains(answer), "{text}: {message}");
        }
    }

    #[test]
    fn unix_paths_fit_into_sun_path() {
        let path = |len: usize| PathBuf::from(format!("/{}", "a".repeat(len - 1)));
        assert!(check_socket_path(&path(107)).is_ok());
        let error = check_socket_path(&path(108)).unwrap_err().to_string();
        assert!(error.contains("at most 107 bytes"), "{error}");
    }

    #[test]
    fn short_forms_are_both_families() {
        for (text, addresses) in [
            (":80", vec!["0.0.0.0:80", "[::]:80"]),
            ("*:80", vec!["0.0.0.0:80", "[::]:80"]),
            ("localhost:0", vec!["127.0.0.1:0", "[::1]:0"]),
            ("LOCALHOST:1", vec!["127.0.0.1:1", "[::1]:1"]),
            ("127.0.0.1:80", vec!["127.0.0.1:80"]),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.addresses().map(|it| it.to_string()).collect::<Vec<_>>(), addresses);
        }
    }

    #[test]
    fn commas_separate_addresses_but_not_paths() {
        for (text, parts) in [
            ("0.0.0.0:80, [::]:80", vec!["0.0.0.0:80", "[::]:80"]),
            ("unix:/a,b.sock", vec!["unix:/a,b.sock"]),
            ("unix:/a.sock,127.0.0.1:1", vec!["unix:/a.sock", "127.0.0.1:1"]),
            ("127.0.0.1:80,", vec!["127.0.0.1:80", ""]),
        ] {
            assert_eq!(split_addresses(text), parts, "{text}");
        }
    }

    #[test]
    fn no_address_is_listed_twice() {
        let listed = |texts: &[&str]| -> Vec<Listen> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(check_distinct(&listed(&["localhost:1", "10.0.0.1:1"])), Ok(()));
        for (texts, twice) in [
            (["127.0.0.1:1", "localhost:1"], "127.0.0.1:1"),
            ([":0", ":0"], "0.0.0.0:0"),
            (["[::]:1", ":1"], "[::]:1"),
        ] {
            let error = check_distinct(&listed(&texts)).unwrap_err();
            assert_eq!(error.to_string(), format!("{twice} is listed twice: remove one"));
        }
    }
}
