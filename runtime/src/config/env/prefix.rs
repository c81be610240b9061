//! The prefix of the configuration's variables, and other variables with that prefix.

use std::net::IpAddr;

use unbroken_schema::DEFAULT_PREFIX;

use crate::spec::{Literal, Spec};

/// The word before the first `_` of our variables: `DAEMON`, or the attribute's `env_prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix<'a>(&'a str);

impl<'a> Prefix<'a> {
    pub(crate) const fn new(word: &'a str) -> Prefix<'a> {
        Prefix(word)
    }

    /// The prefix of a program.
    pub(crate) fn of(spec: &Spec) -> Prefix<'static> {
        let set = spec.keys.iter().find_map(|(path, literal)| match literal {
            Literal::Str(word) if *path == ["env_prefix"] => Some(*word),
            _ => None,
        });
        Prefix(set.unwrap_or(DEFAULT_PREFIX))
    }

    pub(crate) fn word(self) -> &'a str {
        self.0
    }

    /// Whether all variables with it are configuration. The program may use a prefix that it chose for
    /// variables of its own, too.
    pub(crate) fn is_ours_alone(self) -> bool {
        self.0 == DEFAULT_PREFIX
    }

    /// The rest of a name after the prefix and its `_`.
    pub(crate) fn strip(self, name: &str) -> Option<&str> {
        name.strip_prefix(self.0)?.strip_prefix('_')
    }

    /// The variable with this rest.
    pub(crate) fn with(self, rest: &str) -> String {
        format!("{}_{rest}", self.0)
    }

    /// The variable that sets the key at `path`.
    pub(crate) fn variable(self, path: &[&str]) -> String {
        let upper = |part: &str| part.to_ascii_uppercase().replace('-', "_");
        let (head, rest) = path.split_first().unwrap_or((&"", &[]));
        let rest: String = rest
            .iter()
            .enumerate()
            .map(|(i, part)| match (*head, i) {
                ("listen" | "limits", 0) => format!("_{}", upper(part)),
                _ => format!("__{}", upper(part)),
            })
            .collect();
        self.with(&format!("{}{rest}", upper(head)))
    }

    /// Whether a variable has the form in which Kubernetes announces a service whose name begins so:
    /// `DAEMON_API_SERVICE_HOST`, `DAEMON_API_PORT=tcp://…`, `DAEMON_API_PORT_80_TCP_ADDR`.
    pub(crate) fn is_service_link(self, name: &str, value: &str) -> bool {
        let Some(rest) = name.strip_prefix(self.0).filter(|rest| !rest.starts_with("_APP__"))
        else {
            return false;
        };
        let is_port = |text: &str| text.parse::<u16>().is_ok();
        let is_url = |text: &str| {
            let scheme = text.split_once("://").map(|(scheme, _)| scheme);
            scheme.is_some_and(|scheme| PROTOCOLS.contains(&scheme.to_uppercase().as_str()))
        };
        if rest.ends_with("_SERVICE_HOST") {
            return value.parse::<IpAddr>().is_ok();
        }
        if rest.ends_with("_PORT") && is_url(value) {
            return true;
        }
        if let Some((_, port)) = rest.rsplit_once("_SERVICE_PORT") {
            return is_port(value) && (port.is_empty() || port.starts_with('_'));
        }
        let Some((number, what)) =
            rest.rsplit_once("_PORT_").and_then(|(_, it)| it.split_once('_'))
        else {
            return false;
        };
        let (protocol, field) = what.split_once('_').unwrap_or((what, ""));
        let is_field = match field {
            "" => is_url(value),
            "PROTO" => PROTOCOLS.contains(&value.to_uppercase().as_str()),
            "PORT" => is_port(value),
            "ADDR" => value.parse::<IpAddr>().is_ok(),
            _ => false,
        };
        is_port(number) && PROTOCOLS.contains(&protocol) && is_field
    }
}

/// The protocols of a service.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_any_name_are_recognized_by_their_form() {
        let ours = Prefix::new(DEFAULT_PREFIX);
        for (name, value) in [
            ("DAEMON_SERVICE_HOST", "10.96.0.7"),
            ("DAEMON_SERVICE_PORT", "80"),
            ("DAEMON_PORT", "tcp://10.96.0.7:80"),
            ("DAEMON_PORT_80_TCP", "tcp://10.96.0.7:80"),
            ("DAEMON_API_SERVICE_HOST", "fd00::7"),
            ("DAEMON_API_SERVICE_PORT", "8080"),
            ("DAEMON_API_SERVICE_PORT_HTTP", "8080"),
            ("DAEMON_API_SERVICE_PORT_HTTP_PORT", "8080"),
            ("DAEMON_API_PORT", "udp://[fd00::7]:53"),
            ("DAEMON_API_PORT_53_UDP", "udp://10.96.0.7:53"),
            ("DAEMON_API_PORT_53_UDP_PROTO", "udp"),
            ("DAEMON_API_PORT_53_UDP_PORT", "53"),
            ("DAEMON_API_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("DAEMON_API_PORT_9_SCTP", "sctp://10.96.0.7:9"),
            // A service called `daemon-listen-http`.
            ("DAEMON_LISTEN_HTTP_SERVICE_HOST", "10.96.0.7"),
            ("DAEMON_LISTEN_HTTP_PORT", "tcp://10.96.0.7:80"),
        ] {
            assert!(ours.is_service_link(name, value), "{name}={value}");
            let other = name.replace("DAEMON", "WASTEBIN");
            assert!(!ours.is_service_link(&other, value), "{other}");
            assert!(Prefix::new("WASTEBIN").is_service_link(&other, value), "{other}");
        }
    }

    #[test]
    fn what_somebody_wrote_is_no_service() {
        let ours = Prefix::new(DEFAULT_PREFIX);
        for (name, value) in [
            ("DAEMON_PORT", "8080"),
            ("DAEMON_LISTEN_MY_SERVICE_HOST", "127.0.0.1:80"),
            ("DAEMON_LISTEN_HTTP_PORT", "127.0.0.1:80"),
            ("DAEMON_API_SERVICE_PORTS", "80"),
            ("DAEMON_API_PORT_80_TCP_NAME", "web"),
            ("DAEMON_API_PORT_HTTP_TCP", "tcp://10.96.0.7:80"),
            ("DAEMON_APP__DB_SERVICE_HOST", "10.96.0.7"),
            ("DAEMON_APP__DB_PORT", "tcp://10.96.0.7:80"),
            ("DAEMON_LOG", "tcp://10.96.0.7:80"),
            ("DAEMON_DRAIN_TIMEOUT", "80"),
        ] {
            assert!(!ours.is_service_link(name, value), "{name}={value}");
        }
    }
}
