//! A listener's addresses: one, several, or a short form that stands for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use unbroken_schema::{Address, Listen};

use super::ListenSettings;
use crate::json::{FromJson, ToJson};

/// The addresses of a listener after the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub(crate) struct Further {
    /// More addresses.
    more: Vec<Address>,
    /// The IPv6 halves of short forms. A host without IPv6 goes without them.
    halves: Vec<SocketAddr>,
}

impl Further {
    pub(super) fn all(&self) -> &[Address] {
        &self.more
    }

    pub(super) fn has_halves(&self) -> bool {
        !self.halves.is_empty()
    }
}

/// One address of a listener.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    /// The settings of a listener with this address alone.
    pub(crate) settings: ListenSettings,
    /// The IPv4 half whose port this IPv6 half has.
    pub(crate) half_of: Option<SocketAddr>,
    /// The IPv6 half that has to have the same port.
    pub(crate) half: Option<SocketAddr>,
}

impl ListenSettings {
    /// Each address as a listener of its own.
    pub(crate) fn each(&self) -> Vec<Binding> {
        let Further { more, halves } = &self.further;
        let alone = |addr| ListenSettings { addr, further: Further::default(), ..self.clone() };
        let whole = [&self.addr].into_iter().chain(more).map(|addr| {
            let half = match addr {
                Address::Tcp(addr) => half_of(*addr).filter(|half| halves.contains(half)),
                Address::Unix(_) => None,
            };
            Binding { settings: alone(addr.clone()), half_of: None, half }
        });
        let halves = halves.iter().map(|half| {
            let settings = alone(Address::Tcp(*half));
            Binding { settings, half_of: other_half(*half), half: None }
        });
        whole.chain(halves).collect()
    }

    /// All addresses.
    pub(crate) fn addrs(&self) -> Vec<Address> {
        self.each().into_iter().map(|binding| binding.settings.addr).collect()
    }

    /// The address that both listeners have and that the kernel would refuse to bind twice.
    pub(super) fn collides(&self, other: &ListenSettings) -> Option<Address> {
        let others = other.addrs();
        self.addrs().into_iter().find(|addr| others.iter().any(|other| addr.collides(other)))
    }

    /// Whether one of them is a unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        self.addrs().iter().any(Address::is_unix)
    }

    /// Whether one of them is TCP over IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        self.addrs().iter().any(Address::is_ipv6)
    }
}

/// The addresses of a listener; `None` for an empty list.
pub(super) fn together(listed: Vec<Listen>) -> Option<(Address, Further)> {
    let mut further = Further::default();
    let mut first = None;
    for Listen { address, ipv6 } in listed {
        further.halves.extend(ipv6);
        match first {
            None => first = Some(address),
            Some(_) => further.more.push(address),
        }
    }
    first.map(|first| (first, further))
}

/// The IPv6 address that belongs to an IPv4 one of every host.
fn half_of(addr: SocketAddr) -> Option<SocketAddr> {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED,
        _ => return None,
    };
    Some(SocketAddr::new(ip.into(), addr.port()))
}

fn other_half(half: SocketAddr) -> Option<SocketAddr> {
    let ip = match half.ip() {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::UNSPECIFIED,
        _ => return None,
    };
    Some(SocketAddr::new(ip.into(), half.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(texts: &[&str]) -> ListenSettings {
        let listed = texts.iter().map(|text| text.parse().unwrap()).collect();
        let (addr, further) = together(listed).unwrap();
        ListenSettings {
            addr,
            further,
            backlog: 1,
            mode: None,
            user: None,
            group: None,
            v6only: true,
            http: Default::default(),
        }
    }

    #[test]
    fn short_forms_are_both_families() {
        for (texts, addrs) in [
            (&[":80"][..], &["0.0.0.0:80", "[::]:80"][..]),
            (&["localhost:0"], &["127.0.0.1:0", "[::1]:0"]),
            (&["0.0.0.0:80", "[::]:80"], &["0.0.0.0:80", "[::]:80"]),
            (&["127.0.0.1:80"], &["127.0.0.1:80"]),
            (&["localhost:1", "10.0.0.1:1"], &["127.0.0.1:1", "10.0.0.1:1", "[::1]:1"]),
            (&["unix:/a.sock", "127.0.0.1:1"], &["unix:/a.sock", "127.0.0.1:1"]),
        ] {
            let listed: Vec<String> =
                listener(texts).addrs().iter().map(ToString::to_string).collect();
            assert_eq!(listed, addrs, "{texts:?}");
        }
    }

    #[test]
    fn halves_know_each_other() {
        let listen = listener(&["localhost:0"]);
        let [v4, v6] = &listen.each()[..] else { panic!() };
        assert_eq!((v4.half, v4.half_of), (Some("[::1]:0".parse().unwrap()), None));
        assert_eq!((v6.half, v6.half_of), (None, Some("127.0.0.1:0".parse().unwrap())));
        assert_eq!(v6.settings.each().len(), 1);
    }
}
