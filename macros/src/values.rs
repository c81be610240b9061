//! Literals: what each key takes, and what to write when it is something else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use syn::{Lit, LitInt, LitStr};

use crate::args::Value;
use crate::keys::{Kind, list, nearest};

mod lists;

/// What a literal means to the configuration.
#[derive(Clone)]
pub(crate) enum Setting {
    Str(LitStr),
    Int(i64),
    Bool(bool),
}

/// An address in the one way it is compared.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// Reads the value of a key. The message of a mistake says what the key takes.
pub(crate) fn read(key: &str, kind: Kind, value: &Value) -> Result<Setting, String> {
    match kind {
        Kind::Switch => match value {
            Value::None => Ok(Setting::Bool(true)),
            Value::Literal(Lit::Bool(switch)) => Ok(Setting::Bool(switch.value)),
            _ => Err(format!("`{key}` is a switch: write `{key}`, or `{key} = false`")),
        },
        Kind::Duration => duration(key, value).map(|(text, _)| Setting::Str(text)),
        Kind::Mode => mode(key, value).map(Setting::Str),
        Kind::Count(most) => count(key, value, most).map(|it| Setting::Int(it.into())),
        Kind::Address => addresses(key, value).map(|(text, _)| Setting::Str(text)),
        Kind::Socket => match address(key, value)? {
            (text, Address::Tcp(_)) => Ok(Setting::Str(text)),
            (_, Address::Unix(_)) => {
                Err(format!("`{key}` is an address and a port: write `{key} = \"0.0.0.0:8086\"`"))
            }
        },
        Kind::Choice(words) => choice(key, value, words).map(Setting::Str),
        Kind::Name => {
            let text = text(key, value, "name", "hello")?;
            match text.value() {
                name if name.contains('/') => {
                    Err(format!("`{key}` is a name and no path: remove the `/`"))
                }
                name if name.starts_with('.') => {
                    Err(format!("`{key}` must not begin with a dot: remove it"))
                }
                _ => Ok(Setting::Str(text)),
            }
        }
        Kind::Prefix => prefix(key, value).map(Setting::Str),
        Kind::Paths => lists::paths(key, value).map(Setting::Str),
        Kind::Names => lists::names(key, value).map(Setting::Str),
        Kind::Words(words) => lists::words(key, value, words).map(Setting::Str),
        Kind::Within(low, high) => lists::within(key, value, low, high).map(Setting::Int),
        Kind::Limit => lists::limit(key, value).map(Setting::Str),
        Kind::Text | Kind::Listen | Kind::Limits | Kind::Crate => {
            let (what, example) = match key {
                "user" | "group" => ("name", "www"),
                _ => ("path", "/path"),
            };
            text(key, value, what, example).map(Setting::Str)
        }
    }
}

fn text(key: &str, value: &Value, what: &str, example: &str) -> Result<LitStr, String> {
    let Value::Literal(Lit::Str(text)) = value else {
        return Err(format!("`{key}` is a {what} in quotes: write `{key} = \"{example}\"`"));
    };
    match text.value() {
        empty if empty.trim().is_empty() => {
            Err(format!("`{key}` is empty: write a {what}, or leave `{key}` out"))
        }
        nul if nul.contains('\0') => {
            Err(format!("`{key}` contains a NUL byte, which no {what} can: remove it"))
        }
        _ => Ok(text.clone()),
    }
}

/// Words that begin variables of systemd and of this crate.
const TAKEN: [&str; 4] = ["LISTEN", "NOTIFY", "UNBROKEN", "WATCHDOG"];

/// Reads `"HELLO"`, and `"HELLO_"` as the same.
fn prefix(key: &str, value: &Value) -> Result<LitStr, String> {
    let text = text(key, value, "word", "HELLO")?;
    let written = text.value();
    let word = written.strip_suffix('_').unwrap_or(&written);
    let letters = word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !letters || !word.starts_with(|c: char| c.is_ascii_uppercase()) || word.ends_with('_') {
        let upper: String = word.to_ascii_uppercase().replace(['-', '.', ' '], "_");
        let example = match upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
            true if !upper.trim_matches('_').is_empty() => upper.trim_matches('_').to_owned(),
            _ => "HELLO".to_owned(),
        };
        return Err(format!(
            "`{key}` is what variables begin with, of A-Z, 0-9 and `_`: write `{key} = \"{example}\"`"
        ));
    }
    if TAKEN.contains(&word) {
        return Err(format!(
            "`{key}` cannot be \"{word}\": {word}_* are variables of somebody else, write another word"
        ));
    }
    Ok(LitStr::new(word, text.span()))
}

pub(crate) fn duration(key: &str, value: &Value) -> Result<(LitStr, Duration), String> {
    let wrong = |example: &str| format!("`{key}` is a duration: write `{key} = \"{example}\"`");
    match value {
        Value::Literal(Lit::Str(text)) => match humantime::parse_duration(&text.value()) {
            Ok(duration) => Ok((text.clone(), duration)),
            Err(humantime::DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => {
                let written = text.value();
                let example = format!("{}s", written.trim());
                Err(format!("`{key}` needs a unit: write `{key} = \"{example}\"`"))
            }
            Err(_) => Err(format!(
                "`{}` is not a duration: write one like `{key} = \"30s\"` or `{key} = \"1m 30s\"`",
                text.value()
            )),
        },
        Value::Literal(Lit::Int(number)) => {
            let written = format!("{}{}", number.base10_digits(), number.suffix());
            match humantime::parse_duration(&written) {
                Ok(_) if !number.suffix().is_empty() => Err(wrong(&written)),
                _ => Err(wrong(&format!("{}s", number.base10_digits()))),
            }
        }
        _ => Err(wrong("30s")),
    }
}

fn choice(key: &str, value: &Value, words: &[&str]) -> Result<LitStr, String> {
    let all = || list(words.iter().copied(), "\"");
    let Value::Literal(Lit::Str(text)) = value else {
        return Err(format!("`{key}` is a word in quotes: write {}", all()));
    };
    let word = text.value();
    if words.contains(&word.as_str()) {
        return Ok(text.clone());
    }
    Err(match nearest(&word, words.iter().copied()) {
        Some(near) => format!("`{key}` cannot be \"{word}\": did you mean \"{near}\"?"),
        None => format!("`{key}` cannot be \"{word}\": write {}", all()),
    })
}

fn count(key: &str, value: &Value, most: u32) -> Result<u32, String> {
    let suffixes = ["", "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "usize", "isize"];
    let number = match value {
        Value::Literal(Lit::Int(number)) if suffixes.contains(&number.suffix()) => {
            number.base10_parse().ok().filter(|count| (1..=most).contains(count))
        }
        _ => None,
    };
    number.ok_or_else(|| {
        let range = match most {
            u32::MAX => "of 1 or more".to_owned(),
            most => format!("from 1 to {most}"),
        };
        format!("`{key}` is a whole number {range}: write one without quotes, as in `{key} = 5`")
    })
}

/// Reads `"0027"` and `0o027`, and gives both as `"0027"`.
fn mode(key: &str, value: &Value) -> Result<LitStr, String> {
    let example = mode_example(key);
    let too_large = || format!("`{key}` is larger than 0o777: write its three octal digits");
    let parse = |digits: &str| u32::from_str_radix(digits, 8).ok();
    let (bits, span) = match value {
        Value::Literal(Lit::Str(text)) => {
            let written = text.value();
            let digits = written.strip_prefix("0o").unwrap_or(&written);
            let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
            if !octal {
                return Err(format!(
                    "`{key}` is octal, and \"{written}\" is not: write it as `{key} = \"{example}\"`"
                ));
            }
            (parse(digits).ok_or_else(too_large)?, text.span())
        }
        Value::Literal(Lit::Int(number)) => {
            let bits = octal_digits(number)
                .ok_or_else(|| not_octal(key, number))
                .and_then(|digits| parse(&digits).ok_or_else(too_large))?;
            (bits, number.span())
        }
        _ => return Err(format!("`{key}` is octal: write it as `{key} = \"{example}\"`")),
    };
    if bits > 0o777 {
        return Err(too_large());
    }
    Ok(LitStr::new(&format!("{bits:04o}"), span))
}

fn octal_digits(number: &LitInt) -> Option<String> {
    let written = number.token().to_string().replace('_', "");
    let digits = written.strip_prefix("0o")?.strip_suffix(number.suffix())?.to_owned();
    Some(digits)
}

fn mode_example(key: &str) -> &'static str {
    if key == "umask" { "0027" } else { "0660" }
}

fn not_octal(key: &str, number: &LitInt) -> String {
    let (written, example) = (number.to_string(), mode_example(key));
    match u32::from_str_radix(&written, 8) {
        Ok(bits) if bits <= 0o777 => format!(
            "`{key}` is octal, and {written} is decimal: write `{key} = \"{bits:04o}\"` or \
             `{key} = 0o{bits:03o}`"
        ),
        _ => format!("`{key}` is octal, and {written} is not: write it as `{key} = \"{example}\"`"),
    }
}

/// Reads one address, several in an array or in one text with commas, and the short forms of both families:
/// as one text with commas, and all addresses that it stands for.
pub(crate) fn addresses(key: &str, value: &Value) -> Result<(LitStr, Vec<Address>), String> {
    let (items, span) = match value {
        Value::Literal(Lit::Str(text)) => {
            let written = text.value();
            let parts: Vec<String> =
                written.split(',').map(|part| part.trim().to_owned()).collect();
            // A path may have commas, too.
            let whole = written.starts_with("unix:") && parts.iter().any(|part| one(part).is_err());
            (if whole { vec![written] } else { parts }, text.span())
        }
        Value::Other(_) => match lists::texts(value) {
            Some((items, span)) if !items.is_empty() => (items, span),
            _ => return address(key, value).map(|(text, address)| (text, vec![address])),
        },
        _ => return address(key, value).map(|(text, address)| (text, vec![address])),
    };
    let mut all = Vec::new();
    for item in &items {
        let addresses = one(item)?;
        if addresses.iter().any(|address| all.contains(address)) {
            return Err(format!("`{item}` is there twice: remove one"));
        }
        all.extend(addresses);
    }
    Ok((LitStr::new(&items.join(","), span), all))
}

/// What a text stands for: one address, or both families of a short form.
fn one(written: &str) -> Result<Vec<Address>, String> {
    if let Some(path) = written.strip_prefix("unix:") {
        return unix(path).map(|path| vec![Address::Unix(path)]);
    }
    let host_and_port = written.rsplit_once(':');
    let both = match host_and_port.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
    {
        Some(("" | "*", port)) => Some((Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port)),
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
            Some((Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port))
        }
        _ => None,
    };
    match both {
        Some((v4, v6, port)) => {
            let halves = [SocketAddr::from((v4, port)), SocketAddr::from((v6, port))];
            Ok(halves.map(Address::Tcp).to_vec())
        }
        None => match written.parse() {
            Ok(address) => Ok(vec![Address::Tcp(address)]),
            Err(_) => Err(no_address(written)),
        },
    }
}

pub(crate) fn address(key: &str, value: &Value) -> Result<(LitStr, Address), String> {
    let text = match value {
        Value::Literal(Lit::Str(text)) => text,
        Value::Literal(Lit::Int(port)) if port.base10_parse::<u16>().is_ok() => {
            return Err(format!(
                "`{key}` is an address in quotes: write `{key} = \"0.0.0.0:{}\"`",
                port.base10_digits()
            ));
        }
        _ => {
            return Err(format!(
                "`{key}` is an address in quotes: write `{key} = \"0.0.0.0:8080\"`"
            ));
        }
    };
    let written = text.value();
    if let Some(path) = written.strip_prefix("unix:") {
        return unix(path).map(|path| (text.clone(), Address::Unix(path)));
    }
    match written.parse() {
        Ok(address) => Ok((text.clone(), Address::Tcp(address))),
        Err(_) => Err(no_address(&written)),
    }
}

fn unix(path: &str) -> Result<String, String> {
    // sun_path has 108 bytes, the last one for the NUL: unix(7).
    const MOST: usize = 107;
    if path.is_empty() {
        return Err("`unix:` is followed by no path: write \"unix:/run/hello/hello.sock\"".into());
    }
    if path.contains('\0') {
        return Err("the path of a unix socket cannot contain a NUL byte: remove it".into());
    }
    if path.len() > MOST {
        return Err(format!(
            "the path of this unix socket has {} bytes and the kernel takes {MOST}: shorten it",
            path.len()
        ));
    }
    Ok(path.to_owned())
}

/// What is said of `udp://…`, `…/udp` and of schemes that say nothing.
fn of_another_protocol(written: &str) -> Option<String> {
    let (scheme, rest) = match (written.split_once("://"), written.rsplit_once('/')) {
        (Some((scheme, rest)), _) => (scheme, rest),
        // As Docker writes it.
        (None, Some((rest, scheme))) => (scheme, rest),
        (None, None) => written.split_once(':')?,
    };
    match scheme.to_ascii_lowercase().as_str() {
        "udp" | "quic" => Some(
            "UDP is not supported yet: a listener is TCP, as in \"0.0.0.0:8080\", or a unix socket, as \
             in \"unix:/run/hello/hello.sock\""
                .into(),
        ),
        "tcp" | "http" | "https" => {
            let address = rest.trim_end_matches('/').parse::<SocketAddr>();
            let address = address.map_or_else(|_| "0.0.0.0:8080".into(), |it| it.to_string());
            Some(format!("an address has no protocol: write \"{address}\""))
        }
        _ => None,
    }
}

/// What an address might be looked for under, which is a listener's.
pub(crate) const ADDRESS_WORDS: [&str; 8] =
    ["addr", "address", "bind", "host", "hostname", "listen_addr", "listen_address", "port"];

/// What to write in place of such a key.
pub(crate) fn of_listener(key: &str, value: &Value) -> String {
    let written = match value {
        Value::Literal(Lit::Str(text)) => text.value(),
        Value::Literal(Lit::Int(number)) => number.base10_digits().to_owned(),
        _ => String::new(),
    };
    let port = written.strip_prefix(':').unwrap_or(&written).parse::<u16>();
    let address = match (port, written.parse::<IpAddr>(), written.parse::<SocketAddr>()) {
        (Ok(port), ..) => format!("0.0.0.0:{port}"),
        (_, Ok(ip), _) => SocketAddr::new(ip, 8080).to_string(),
        (.., Ok(address)) => address.to_string(),
        _ => "0.0.0.0:8080".to_owned(),
    };
    format!(
        "`{key}` is not a key, as an address is that of a listener: write `listen(http = \"{address}\")`"
    )
}

/// Says why this is no address and which one may have been meant.
fn no_address(written: &str) -> String {
    if written.trim().is_empty() {
        return "the address is empty: write one like \"0.0.0.0:8080\"".into();
    }
    if written.starts_with('/') {
        return format!("a unix socket is written with `unix:`: write \"unix:{written}\"");
    }
    if let Some(message) = of_another_protocol(written) {
        return message;
    }
    if written.bytes().all(|b| b.is_ascii_digit()) {
        return format!("`{written}` has no IP address: write \"0.0.0.0:{written}\"");
    }
    if let Some((Ok(ip), Ok(port))) =
        written.rsplit_once(':').map(|(ip, port)| (ip.parse::<Ipv6Addr>(), port.parse::<u16>()))
    {
        return format!("an IPv6 address stands in brackets: write \"[{ip}]:{port}\"");
    }
    if let Ok(ip) = written.trim_matches(['[', ']']).parse::<IpAddr>() {
        let suggestion = SocketAddr::new(ip, 8080);
        return format!("`{written}` has no port: write one, as in \"{suggestion}\"");
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return format!(
            "`{written}` is not an address: listen addresses are literals like \"127.0.0.1:80\" \
             or \"unix:/run/hello/hello.sock\""
        );
    };
    let Ok(port) = port.parse::<u16>() else {
        return format!("`{written}` has no port from 0 to 65535: write one, as in \"0.0.0.0:80\"");
    };
    match host {
        "" | "*" => format!("`{written}` has no IP address: write \"0.0.0.0:{port}\""),
        _ if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            format!("`{host}` is not an IP address: write one, as in \"127.0.0.1:{port}\"")
        }
        _ => format!(
            "`{host}` is a host name, and listen addresses are literals: write \"127.0.0.1:{port}\""
        ),
    }
}
