//! Literals: what each key takes, and what to write when it is something else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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
        Kind::Address => address(key, value).map(|(text, _)| Setting::Str(text)),
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

/// Says why this is no address and which one may have been meant.
fn no_address(written: &str) -> String {
    if written.trim().is_empty() {
        return "the address is empty: write one like \"0.0.0.0:8080\"".into();
    }
    if written.starts_with('/') {
        return format!("a unix socket is written with `unix:`: write \"unix:{written}\"");
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
