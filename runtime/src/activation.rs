//! `sd_listen_fds(3)`: sockets that a service manager gives to the daemon that it starts.
//!
//! They come from its `.socket` units, and from its store of what the daemon asked it to keep (see
//! [`crate::notify`]). They are told apart, and matched to listeners, by their names: in what order they
//! come is nobody's promise.

use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};

use crate::config::{Address, ListenSettings};
use crate::error::{Error, Result};
use crate::listener::{self, Bound, Given};
use crate::sorted::SortedMap;
use crate::sys::{descriptors, process};

/// The variables of the protocol: for the process that they name, and none that it starts.
const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"];

/// The number of the first descriptor.
const FIRST: RawFd = 3;

/// More than a service manager passes.
const MOST: usize = 1024;

/// How systemd names what its unit does not name.
const UNNAMED: &str = "unknown";

/// Whether a variable is of this protocol.
pub(crate) fn is_of_protocol(name: &OsStr) -> bool {
    VARIABLES.iter().any(|variable| name == *variable)
}

/// Before the name of a listener in the manager's store: sockets of units have the bare name.
pub(crate) const STORED: &str = "listen.";

/// A descriptor with its name.
pub(crate) type Named = (String, OwnedFd);

/// Takes the descriptors that are meant for this process. For the top of `main`, before anything is opened.
pub(crate) fn take() -> Result<Vec<Named>> {
    let vars = process::variables();
    let names = announced(&vars, std::process::id())?;
    let numbered = (FIRST..).zip(names);
    let adopt = |(number, name)| {
        descriptors::adopt(number).map(|fd| (name, fd)).map_err(|error| {
            Error::config(format!(
                "LISTEN_FDS promises descriptor {number}, which is not open ({error}): unset it, or \
                 correct who sets it"
            ))
        })
    };
    numbered.map(adopt).collect()
}

/// The names of the descriptors that this process was given, in their order.
fn announced(vars: &[(OsString, OsString)], own: u32) -> Result<Vec<String>> {
    let var = |name: &str| {
        let value = vars.iter().find(|(known, _)| known == name)?.1.to_str()?;
        Some(value.to_owned())
    };
    let (Some(pid), Some(count)) = (var("LISTEN_PID"), var("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    // Who does not read them, as a shell, leaves them to processes that they are not for.
    if pid.parse() != Ok(own) {
        return Ok(Vec::new());
    }
    let Some(count) = count.parse().ok().filter(|count| *count <= MOST) else {
        return Err(Error::config(format!(
            "LISTEN_FDS is `{count}`, and not a number of descriptors up to {MOST}: unset it, or correct \
             who sets it"
        )));
    };
    let Some(names) = var("LISTEN_FDNAMES") else { return Ok(vec![UNNAMED.into(); count]) };
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    match names.len() {
        _ if count == 0 => Ok(Vec::new()),
        named if named == count => Ok(names),
        named => Err(Error::config(format!(
            "LISTEN_FDNAMES has {named} names for the {count} descriptors of LISTEN_FDS: correct who sets \
             them"
        ))),
    }
}

/// What a daemon was given, as its configuration sees it.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Of units, by the name of the listener. A name may have several, and may be declared later.
    pub(crate) passed: Vec<(String, Bound)>,
    /// Bound by this daemon in an earlier life, and as they are declared now.
    pub(crate) stored: Vec<(String, Bound)>,
    /// The names of what the manager keeps in vain.
    pub(crate) outdated: Vec<String>,
    /// Where that is, with the name.
    pub(crate) left: Vec<(String, Address)>,
    /// What the operator should know.
    pub(crate) remarks: Vec<String>,
}

impl Sockets {
    /// Sorts what was given.
    pub(crate) fn sort(
        given: Vec<Named>,
        declared: &SortedMap<String, ListenSettings>,
    ) -> Result<Sockets> {
        let mut sockets = Sockets::default();
        for (name, fd) in given {
            let examined = listener::examine(fd);
            match name.strip_prefix(STORED) {
                Some(name) => sockets.take_back(name, examined, declared.get(name))?,
                None => sockets.accept(name, examined, declared)?,
            }
        }
        for (name, wanted) in declared {
            sockets.compare(name, wanted);
        }
        Ok(sockets)
    }

    /// One of a unit.
    fn accept(
        &mut self,
        name: String,
        examined: Result<Given, String>,
        declared: &SortedMap<String, ListenSettings>,
    ) -> Result<()> {
        let listeners = || -> String {
            let names: Vec<String> = declared.keys().map(|name| format!("`{name}`")).collect();
            if names.is_empty() { "none is declared".into() } else { names.join(", ") }
        };
        let is_declared = declared.contains_key(&name);
        let given = match examined {
            Ok(given) => given,
            Err(what) if is_declared => {
                return Err(Error::config(format!(
                    "the service manager passed {what} as listener `{name}`: its .socket unit needs \
                     ListenStream= with an address or a path, and Accept=no"
                )));
            }
            Err(what) => {
                self.remarks.push(format!(
                    "the service manager passed {what} as `{name}`, which is not used: remove it from \
                     the .socket unit"
                ));
                return Ok(());
            }
        };
        // By default it has the name of the unit.
        if name == UNNAMED || name.is_empty() || name.ends_with(".socket") {
            return Err(Error::config(format!(
                "the service manager passed the socket {} under the name `{name}`, so that it is not \
                 known for which listener ({}): set FileDescriptorName= in the .socket unit to the name \
                 of the listener",
                given.addr(),
                listeners()
            )));
        }
        if !is_declared {
            self.remarks.push(format!(
                "the service manager passed the socket {} as `{name}`, and no listener has that name \
                 ({}): who connects there waits in vain; declare it, correct FileDescriptorName=, or \
                 disable the .socket unit",
                given.addr(),
                listeners()
            ));
        }
        self.passed.push((name, given.of_manager()));
        Ok(())
    }

    /// One of the store.
    fn take_back(
        &mut self,
        name: &str,
        examined: Result<Given, String>,
        wanted: Option<&ListenSettings>,
    ) -> Result<()> {
        let why = match (examined, wanted) {
            (Err(what), _) => format!("it is {what}"),
            (Ok(given), None) => {
                self.left.push((name.to_owned(), given.addr().clone()));
                "it is not declared any more".into()
            }
            (Ok(given), Some(wanted)) => match given.differs(wanted) {
                None if self.stored.iter().any(|(other, _)| other == name) => {
                    "there is another of it".into()
                }
                None => {
                    self.stored.push((name.to_owned(), given.of_store(name, wanted)?));
                    return Ok(());
                }
                Some(why) => {
                    self.left.push((name.to_owned(), given.addr().clone()));
                    format!("of {}, {why}", given.addr())
                }
            },
        };
        self.remarks
            .push(format!("listener `{name}` was kept by the service manager in vain: {why}"));
        self.outdated.push(name.to_owned());
        Ok(())
    }

    /// What of a listener's declaration does not count.
    fn compare(&mut self, name: &str, wanted: &ListenSettings) {
        let passed = self.passed.iter().filter(|(its, _)| its == name);
        let addrs: Vec<&Address> = passed.map(|(_, bound)| bound.addr()).collect();
        if addrs.is_empty() {
            return;
        }
        if let Some(at) = self.stored.iter().position(|(its, _)| its == name) {
            self.stored.remove(at);
            self.outdated.push(name.to_owned());
        }
        if addrs != [&wanted.addr] {
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            self.remarks.push(format!(
                "listener `{name}` is at {}, passed by the service manager, and not at {} as configured",
                addrs.join(" and "),
                wanted.addr
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced_by(vars: &[(&str, &str)]) -> Result<Vec<String>> {
        let vars: Vec<_> = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        announced(&vars, 7)
    }

    #[test]
    fn names_are_of_this_process() {
        let given = [("LISTEN_PID", "7"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:admin")];
        assert_eq!(announced_by(&given).unwrap(), ["http", "admin"]);
        assert_eq!(announced_by(&given[..2]).unwrap(), ["unknown", "unknown"]);
        let none: [&str; 0] = [];
        assert_eq!(announced_by(&given[..1]).unwrap(), none);
        assert_eq!(announced_by(&given[1..]).unwrap(), none);
        assert_eq!(announced_by(&[("LISTEN_PID", "8"), given[1], given[2]]).unwrap(), none);
        assert_eq!(announced_by(&[given[0], ("LISTEN_FDS", "0"), given[2]]).unwrap(), none);
    }

    #[test]
    fn nonsense_is_refused() {
        let pid = ("LISTEN_PID", "7");
        for count in ["", "two", "-1", "1025", "99999999999999999999"] {
            let error = announced_by(&[pid, ("LISTEN_FDS", count)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("LISTEN_FDS is `{count}`")), "{error}");
        }
        let named = [pid, ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "a:b")];
        let error = announced_by(&named).unwrap_err().to_string();
        assert!(error.contains("2 names for the 1 descriptors"), "{error}");
    }
}
