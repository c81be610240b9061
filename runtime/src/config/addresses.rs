//! A listener's addresses: one, several, or a short form that stands for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Address, ListenSettings};
use crate::json::{FromJson, ToJson};

/// What a listener has beside its first address.
#[derive(Debug, Clone, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(default)]
pub(crate) struct Further {
    /// More addresses.
    more: Vec<Address>,
    /// The IPv6 halves of short forms, which a host without IPv6 does without.
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
    /// Those of a listener with this address alone.
    pub(crate) settings: ListenSettings,
    /// Of an IPv6 half the other one, whose port it has.
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

    /// Whether it has the address of another one that the kernel would refuse to bind.
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

/// The addresses that a text stands for, and those of its IPv6 halves. The message of a mistake is
/// [`Address`]'s.
pub(super) fn parse(text: &str) -> Result<(Address, Option<SocketAddr>), String> {
    let host_and_port = text.rsplit_once(':');
    let port = host_and_port.and_then(|(_, port)| port.parse::<u16>().ok());
    let ip: IpAddr = match (host_and_port, port) {
        (Some(("" | "*", _)), Some(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (Some((host, _)), Some(_)) if host.eq_ignore_ascii_case("localhost") => {
            Ipv4Addr::LOCALHOST.into()
        }
        _ => return text.parse().map(|address| (address, None)),
    };
    let addr = SocketAddr::new(ip, port.unwrap_or_default());
    Ok((Address::Tcp(addr), half_of(addr)))
}

/// The parts of a text with commas. A path may have commas, too.
pub(super) fn split(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match parts.iter().all(|part| parse(part).is_ok()) {
        true => parts,
        false if text.starts_with("unix:") => vec![text],
        false => parts,
    }
}

/// All of them as the addresses of a listener; `Err` with one that is there twice.
pub(super) fn together(
    parsed: Vec<(Address, Option<SocketAddr>)>,
) -> Result<Option<(Address, Further)>, Address> {
    let mut further = Further::default();
    let mut first = None;
    for (addr, half) in parsed {
        let all = first.iter().chain(&further.more);
        let halves = further.halves.iter().map(|half| Address::Tcp(*half));
        let half_addr = half.map(Address::Tcp);
        let twice =
            all.cloned().chain(halves).find(|it| *it == addr || Some(it) == half_addr.as_ref());
        if let Some(twice) = twice {
            return Err(twice);
        }
        further.halves.extend(half);
        match first {
            None => first = Some(addr),
            Some(_) => further.more.push(addr),
        }
    }
    Ok(first.map(|first| (first, further)))
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

    fn texts(listed: &str) -> Result<Vec<String>, String> {
        let parts = split(listed).into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let (addr, further) =
            together(parts).map_err(|twice| format!("twice {twice}"))?.ok_or("none")?;
        let bare = ListenSettings {
            addr,
            further,
            backlog: 1,
            mode: None,
            user: None,
            group: None,
            v6only: true,
            http: Default::default(),
        };
        Ok(bare.addrs().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn short_forms_are_both_families() {
        for (text, addrs) in [
            (":80", vec!["0.0.0.0:80", "[::]:80"]),
            ("*:80", vec!["0.0.0.0:80", "[::]:80"]),
            ("localhost:0", vec!["127.0.0.1:0", "[::1]:0"]),
            ("LOCALHOST:1", vec!["127.0.0.1:1", "[::1]:1"]),
            ("0.0.0.0:80, [::]:80", vec!["0.0.0.0:80", "[::]:80"]),
            ("127.0.0.1:80", vec!["127.0.0.1:80"]),
            ("localhost:1,10.0.0.1:1", vec!["127.0.0.1:1", "10.0.0.1:1", "[::1]:1"]),
            ("unix:/a,b.sock", vec!["unix:/a,b.sock"]),
            ("unix:/a.sock,127.0.0.1:1", vec!["unix:/a.sock", "127.0.0.1:1"]),
        ] {
            assert_eq!(texts(text), Ok(addrs.into_iter().map(str::to_owned).collect()), "{text}");
        }
        assert_eq!(texts("127.0.0.1:1,localhost:1"), Err("twice 127.0.0.1:1".into()));
        assert_eq!(texts(":0,:0"), Err("twice 0.0.0.0:0".into()));
        for (text, answer) in [
            ("", "127.0.0.1:80"),
            ("127.0.0.1:80,", "127.0.0.1:80"),
            ("localhost", "expected a literal address"),
            ("example.org:80", "host names are not resolved"),
            (":http", "127.0.0.1:80"),
        ] {
            let message = texts(text).unwrap_err();
            assert!(message.contains(answer), "{text}: {message}");
        }
    }

    #[test]
    fn halves_know_each_other() {
        let parsed = vec![parse("localhost:0").unwrap()];
        let (addr, further) = together(parsed).unwrap().unwrap();
        let listen = ListenSettings {
            addr,
            further,
            backlog: 1,
            mode: None,
            user: None,
            group: None,
            v6only: true,
            http: Default::default(),
        };
        let [v4, v6] = &listen.each()[..] else { panic!() };
        assert_eq!((v4.half, v4.half_of), (Some("[::1]:0".parse().unwrap()), None));
        assert_eq!((v6.half, v6.half_of), (None, Some("127.0.0.1:0".parse().unwrap())));
        assert_eq!(v6.settings.each().len(), 1);
    }
}
