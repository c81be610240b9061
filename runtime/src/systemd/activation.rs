//! Socket activation, `sd_listen_fds(3)`: the sockets that a service manager passes to the daemon.
//!
//! They come from `.socket` units, and from the fd store, in which the daemon had the manager keep its
//! listeners (see [`crate::systemd::notify`]). Stored sockets have names that begin with [`STORED`]; sockets
//! of units have the name of their listener. Sockets are matched to listeners by name, never by their order,
//! which is not guaranteed.
//!
//! [`take`] takes the descriptors at the top of `main`; [`Sockets::sort`] compares them with the
//! configuration.

use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};

use crate::config::{Address, ListenSettings};
use crate::error::{Error, Result};
use crate::listener::{self, Bound, InheritedSocket, Unsuitable};
use crate::sys::{descriptors, process};
use unbroken_core::sorted::{SortedMap, sort_few};

/// The variables of the protocol. They are meant for the process whose id they name, and not for its
/// children.
const VARIABLES: [&str; 5] =
    ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", FIRST_NUMBER];

/// Set by the development tool `systemfd`: the number of the first descriptor, if it is not [`FIRST`].
const FIRST_NUMBER: &str = "LISTEN_FDS_FIRST_FD";

/// The number of the first descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The most descriptors that `LISTEN_FDS` may announce. A service manager passes far fewer; a wrong
/// number must not close descriptors of others.
const MAX_PASSED: usize = 1024;

/// The name that systemd gives to a descriptor without a name.
const UNNAMED: &str = "unknown";

/// Returns whether a variable belongs to this protocol.
pub(crate) fn is_of_protocol(name: &OsStr) -> bool {
    VARIABLES.iter().any(|variable| name == *variable)
}

/// The prefix of the names in the fd store, which tells stored sockets from those of units.
pub(crate) const STORED: &str = "listen.";

/// A descriptor with its name, where it has one.
pub(crate) type Named = (Option<String>, OwnedFd);

/// Takes the descriptors that are meant for this process. To be called at the top of `main`, before a
/// descriptor of our own could have one of their numbers.
///
/// In the `foreground` it also takes descriptors that are announced without a process id, as `systemfd
/// --no-pid` does during development.
pub(crate) fn take(foreground: bool) -> Result<Vec<Named>> {
    let vars = process::variables();
    let (first, names) = announced(&vars, std::process::id(), foreground)?;
    let numbered = (first..).zip(names);
    let adopt = |(number, name)| {
        descriptors::adopt(number).map(|fd| (name, fd)).map_err(|error| {
            Error::config(format!(
                "LISTEN_FDS announces descriptor {number}, which is not open ({error}); unset it \
                 or fix the program that sets it"
            ))
        })
    };
    numbered.map(adopt).collect()
}

/// The number of the first descriptor meant for the process `own`, and the names of all of them.
fn announced(
    vars: &[(OsString, OsString)],
    own: u32,
    foreground: bool,
) -> Result<(RawFd, Vec<Option<String>>)> {
    const NONE: (RawFd, Vec<Option<String>>) = (FIRST, Vec::new());
    let var = |name: &str| {
        let value = vars.iter().find(|(known, _)| known == name)?.1.to_str()?;
        Some(value.to_owned())
    };
    let pid = var("LISTEN_PID");
    let Some(count) = var("LISTEN_FDS").filter(|_| pid.is_some() || foreground) else {
        return Ok(NONE);
    };
    // Announced to another process: a shell in between that does not know the protocol, for example, leaves
    // the variables in the environment of its children.
    if pid.as_ref().is_some_and(|pid| pid.parse() != Ok(own)) {
        return Ok(NONE);
    }
    let (first, unnamed) = match pid {
        Some(_) => (FIRST, Some(UNNAMED.to_owned())),
        None => (var(FIRST_NUMBER).and_then(|first| first.parse().ok()).unwrap_or(FIRST), None),
    };
    let Some(count) = count.parse().ok().filter(|count| *count <= MAX_PASSED) else {
        return Err(Error::config(format!(
            "LISTEN_FDS is `{count}`, not a number of descriptors up to {MAX_PASSED}; unset it or \
             fix the program that sets it"
        )));
    };
    let Some(names) = var("LISTEN_FDNAMES") else { return Ok((first, vec![unnamed; count])) };
    let names: Vec<Option<String>> = names.split(':').map(|name| Some(name.to_owned())).collect();
    match names.len() {
        _ if count == 0 => Ok(NONE),
        named if named == count => Ok((first, names)),
        named => Err(Error::config(format!(
            "LISTEN_FDNAMES has {named} names for the {count} descriptors of LISTEN_FDS; fix the \
             program that sets them"
        ))),
    }
}

/// The passed sockets, compared with the configuration.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Sockets of units, by the name of their listener. A listener may have several, and may be undeclared: a
    /// later generation may declare it.
    pub(crate) passed: Vec<(String, Bound)>,
    /// Sockets from the fd store that match what is declared now.
    pub(crate) stored: Vec<(String, Bound)>,
    /// Names in the fd store of sockets that are of no use and are to be removed from it.
    pub(crate) outdated: Vec<String>,
    /// The listeners of sockets in the store that match no declaration, with their addresses: files of unix
    /// sockets have to be removed.
    pub(crate) left: Vec<(String, Address)>,
    /// Messages for the operator.
    pub(crate) remarks: Vec<String>,
}

impl Sockets {
    /// Sorts the passed descriptors by their names into those of units and those of the store.
    pub(crate) fn sort(
        given: Vec<Named>,
        declared: &SortedMap<String, ListenSettings>,
    ) -> Result<Sockets> {
        let mut sockets = Sockets::default();
        let examined = given.into_iter().map(|(name, fd)| (name, listener::examine(fd))).collect();
        for (name, examined) in named(examined, declared)? {
            match name.strip_prefix(STORED) {
                Some(stored) => sockets.take_back(stored, examined, declared)?,
                None => sockets.accept(name, examined, declared)?,
            }
        }
        let place = |name: &String, bound: &Bound| {
            declared
                .get(name)
                .and_then(|it| it.each().iter().position(|it| bound.is_at(&it.settings.addr)))
        };
        sort_few(&mut sockets.stored, |(a, bound), (b, other)| {
            (a, place(a, bound)) < (b, place(b, other))
        });
        for (name, wanted) in declared {
            sockets.compare(name, wanted);
        }
        Ok(sockets)
    }

    /// Takes a socket of a unit.
    fn accept(
        &mut self,
        name: String,
        examined: Examined,
        declared: &SortedMap<String, ListenSettings>,
    ) -> Result<()> {
        let listeners = || listed(declared);
        let is_declared = declared.contains_key(&name);
        let given = match examined {
            Ok(given) => given,
            Err(what) if is_declared => {
                return Err(Error::config(format!(
                    "the service manager passed {what} as listener `{name}`; its .socket unit \
                     needs ListenStream= with an address or a path, and Accept=no"
                )));
            }
            Err(what) => {
                self.remarks.push(format!(
                    "the service manager passed {what} as `{name}`, which is ignored; remove it \
                     from the .socket unit"
                ));
                return Ok(());
            }
        };
        // Without FileDescriptorName= a socket has the name of its unit.
        if name == UNNAMED || name.is_empty() || name.ends_with(".socket") {
            return Err(Error::config(format!(
                "the service manager passed the socket {} as `{name}`, which is not the name of a \
                 listener ({}); set FileDescriptorName= in the .socket unit to that name",
                given.addr(),
                listeners()
            )));
        }
        if !is_declared {
            self.remarks.push(format!(
                "the service manager passed the socket {} as `{name}`, but no listener has that \
                 name ({}) and connections to it are never accepted; declare the listener, correct \
                 FileDescriptorName= or disable the .socket unit",
                given.addr(),
                listeners()
            ));
        }
        self.passed.push((name, given.of_manager()));
        Ok(())
    }

    /// Takes a socket from the fd store, if it is what is declared now.
    fn take_back(
        &mut self,
        stored: &str,
        examined: Examined,
        declared: &SortedMap<String, ListenSettings>,
    ) -> Result<()> {
        let name = stored.split(FURTHER).next().unwrap_or(stored);
        // The declared address that this socket has; if it has none of them, the first one, to name the
        // difference.
        let each: Vec<ListenSettings> =
            declared.get(name).into_iter().flat_map(|it| it.each()).map(|it| it.settings).collect();
        let is_it = |wanted: &&ListenSettings| matches!(&examined, Ok(given) if given.differs(wanted).is_none());
        let wanted = each.iter().find(is_it).or(each.first());
        let why = match (examined, wanted) {
            (Err(what), _) => format!("it is {what}"),
            (Ok(given), None) => {
                self.left.push((name.to_owned(), given.addr().clone()));
                "the listener is no longer declared".into()
            }
            (Ok(given), Some(wanted)) => match given.differs(wanted) {
                None if self.has_stored(name, given.addr(), wanted) => {
                    "another stored socket has the same address".into()
                }
                None => {
                    self.stored.push((name.to_owned(), given.of_store(name, wanted)?));
                    return Ok(());
                }
                Some(why) => {
                    self.left.push((name.to_owned(), given.addr().clone()));
                    format!("it is at {}, and {why}", given.addr())
                }
            },
        };
        self.remarks.push(format!("closing the stored socket of listener `{name}`: {why}"));
        self.outdated.push(stored.to_owned());
        Ok(())
    }

    /// Returns whether another stored socket already serves this address of the listener.
    fn has_stored(&self, name: &str, addr: &Address, wanted: &ListenSettings) -> bool {
        let mut its = self.stored.iter().filter(|(other, _)| other == name);
        its.any(|(_, bound)| bound.addr() == addr || bound.is_at(&wanted.addr))
    }

    /// Gives the sockets of units precedence over what is declared for the listener `name`: stored ones are
    /// outdated, and declared addresses that differ are remarked on.
    fn compare(&mut self, name: &str, wanted: &ListenSettings) {
        let passed = self.passed.iter().filter(|(its, _)| its == name);
        let addrs: Vec<&Address> = passed.map(|(_, bound)| bound.addr()).collect();
        if addrs.is_empty() {
            return;
        }
        let stored = store_names(self.stored.iter().map(|(name, bound)| (name, bound)));
        let stored = stored.into_iter().filter(|(_, (its, _))| *its == name);
        let outdated: Vec<String> = stored.map(|(stored, _)| stored).collect();
        self.outdated.extend(outdated);
        let differs = addrs.len() != wanted.addrs().len()
            || addrs.iter().any(|addr| !wanted.addrs().contains(addr));
        self.stored.retain(|(its, _)| its != name);
        if differs {
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            self.remarks.push(format!(
                "listener `{name}` is at {}, as passed by the service manager, and not at {} as \
                 configured",
                addrs.join(" and "),
                wanted.addrs().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            ));
        }
    }
}

/// Separates the name of a listener from a number, in the names of its second and further sockets in the fd
/// store.
const FURTHER: char = '+';

/// Names listeners for the fd store, where each name is unique: the first socket of a listener has the
/// listener's name, further ones have a number appended.
pub(crate) fn store_names<'a, B>(
    listeners: impl Iterator<Item = (&'a String, B)>,
) -> Vec<(String, (&'a String, B))> {
    let mut seen: SortedMap<&String, usize> = SortedMap::new();
    let named = |(name, bound)| {
        let count = seen.entry(name).or_default();
        *count += 1;
        let stored = match *count {
            1 => name.clone(),
            more => format!("{name}{FURTHER}{}", more - 1),
        };
        (stored, (name, bound))
    };
    listeners.map(named).collect()
}

/// A passed socket, or what the descriptor is instead.
type Examined = Result<InheritedSocket, Unsuitable>;

/// Names the sockets that were passed without a name: after the listener with their address, and if then one
/// socket and one listener are left over, after that listener.
fn named(
    given: Vec<(Option<String>, Examined)>,
    declared: &SortedMap<String, ListenSettings>,
) -> Result<Vec<(String, Examined)>> {
    let (named, nameless): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|(name, _)| name.is_some());
    let mut named: Vec<(String, Examined)> =
        named.into_iter().filter_map(|(name, examined)| Some((name?, examined))).collect();
    let mut left = Vec::new();
    for (_, examined) in nameless {
        let is_at = |wanted: &ListenSettings| matches!(&examined, Ok(given) if given.differs(wanted).is_none());
        match declared.iter().find(|(_, wanted)| is_at(wanted)) {
            Some((name, _)) => named.push((name.clone(), examined)),
            None => left.push(examined),
        }
    }
    let mut free = declared.keys().filter(|name| named.iter().all(|(its, _)| its != *name));
    match (left.len(), free.next(), free.next()) {
        (0, ..) => {}
        (1, Some(name), None) => named.extend(left.pop().map(|it| (name.clone(), it))),
        _ => {
            let what = left.iter().map(|examined| match examined {
                Ok(given) => format!("the socket {}", given.addr()),
                Err(what) => what.to_string(),
            });
            return Err(Error::config(format!(
                "this process was given {} without a name, and no listener has that address ({}); \
                 declare a listener there or name it in LISTEN_FDNAMES",
                what.collect::<Vec<_>>().join(" and "),
                listed(declared)
            )));
        }
    }
    Ok(named)
}

/// The names of the listeners, for messages.
fn listed(declared: &SortedMap<String, ListenSettings>) -> String {
    let names: Vec<String> = declared.keys().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none is declared".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced_in(
        foreground: bool,
        vars: &[(&str, &str)],
    ) -> Result<(RawFd, Vec<Option<String>>)> {
        let vars: Vec<_> = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        announced(&vars, 7, foreground)
    }

    fn announced_by(vars: &[(&str, &str)]) -> Result<Vec<String>> {
        let names = announced_in(false, vars)?.1;
        Ok(names.into_iter().map(Option::unwrap_or_default).collect())
    }

    #[test]
    fn sockets_without_pid_are_for_the_foreground() {
        let given = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:admin"), (FIRST_NUMBER, "5")];
        let named = vec![Some("http".to_owned()), Some("admin".to_owned())];
        assert_eq!(announced_in(true, &given).unwrap(), (5, named));
        assert_eq!(announced_in(true, &given[..1]).unwrap(), (3, vec![None, None]));
        assert_eq!(announced_in(false, &given).unwrap(), (3, vec![]));
        let other = [("LISTEN_PID", "8"), given[0]];
        assert_eq!(announced_in(true, &other).unwrap(), (3, vec![]));
    }

    #[test]
    fn names_are_read_for_own_pid_only() {
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
    fn malformed_variables_are_refused() {
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
