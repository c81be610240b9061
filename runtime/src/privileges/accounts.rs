//! Resolves the users and groups of the configuration to numbers.

use std::path::PathBuf;

use crate::config::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::privileges::{self as sys, Account, User};

/// A key that names no account of this host, or whose account cannot be looked up.
#[derive(Debug)]
pub(crate) struct Unresolved {
    pub(crate) key: &'static str,
    pub(crate) error: Error,
}

impl From<Unresolved> for Error {
    fn from(Unresolved { error, .. }: Unresolved) -> Error {
        error
    }
}

/// Resolves `user`, `group` and `groups`; `None` if the settings have none of them.
pub(crate) fn resolve(settings: &Settings) -> Result<Option<Account>, Unresolved> {
    let of_user = |error| Unresolved { key: "user", error };
    let (user, group, groups) = (&settings.user, &settings.group, &settings.groups);
    if user.is_none() && group.is_none() && groups.is_none() {
        return Ok(None);
    }
    let own = Account::own()
        .map_err(|error| Error::io("cannot read the privileges of this process", error))
        .map_err(of_user)?;
    let entry = user.as_deref().map(find).transpose().map_err(of_user)?;
    let (uid, entry) = match entry {
        None => (own.uid, None),
        Some(Found::Entry(entry)) => (entry.uid, Some(entry)),
        Some(Found::Number(uid)) => (uid, None),
    };
    // A process whose user does not change keeps its groups. Root is an exception: as `user = "root"` it gets
    // root's groups of the database.
    let stays = uid == own.uid && uid != 0;
    let gid = match (group, &entry) {
        (Some(name), _) => group_of("group", name)?,
        (None, Some(entry)) => entry.gid,
        (None, None) if user.is_none() || stays => own.gid,
        (None, None) => {
            return Err(of_user(Error::config(format!(
                "`user` {uid} is not in the user database, so its group is unknown; set `group`"
            ))));
        }
    };
    let groups = match (groups, entry) {
        (Some(names), _) => {
            let groups = names.iter().map(|name| group_of("groups", name));
            sys::sorted(groups.collect::<Result<Vec<u32>, Unresolved>>()?)
        }
        (None, _) if user.is_none() || stays => own.groups,
        (None, Some(entry)) => sys::groups_of(&entry.name, gid).map_err(|error| {
            let what = format!("cannot look up the groups of `{}`", entry.name);
            of_user(Error::os(ErrorKind::Config, what, error))
        })?,
        (None, None) => vec![gid],
    };
    Ok(Some(Account { uid, gid, groups }))
}

/// The values of the environment variables that a login sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// `None` for a number that is not in the user database.
    pub(crate) name: Option<String>,
    pub(crate) home: PathBuf,
    pub(crate) shell: Option<PathBuf>,
}

/// Looks up the login values of `user`, if the settings have one.
pub(crate) fn login(settings: &Settings) -> Result<Option<Login>> {
    let Some(user) = &settings.user else { return Ok(None) };
    Ok(Some(match find(user)? {
        Found::Entry(User { name, home, shell, .. }) => {
            Login { name: Some(name), home, shell: Some(shell) }
        }
        Found::Number(_) => Login { name: None, home: PathBuf::from("/"), shell: None },
    }))
}

/// A user, as found in the database.
enum Found {
    Entry(User),
    /// A number that is not in the database.
    Number(u32),
}

fn find(text: &str) -> Result<Found> {
    let found = sys::user(text).map_err(|error| {
        Error::os(ErrorKind::Config, format!("cannot look up `user` {text}"), error)
    })?;
    match (found, text.parse()) {
        (Some(entry), _) => Ok(Found::Entry(entry)),
        (None, Ok(number)) => Ok(Found::Number(number)),
        (None, Err(_)) => Err(Error::config(format!(
            "`user` {text} does not exist on this host; create it or correct the key"
        ))),
    }
}

fn group_of(key: &'static str, text: &str) -> Result<u32, Unresolved> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let unresolved = |error| Unresolved { key, error };
    let found = sys::group(text).map_err(|error| {
        unresolved(Error::os(ErrorKind::Config, format!("cannot look up `{key}` {text}"), error))
    })?;
    found.ok_or_else(|| {
        unresolved(Error::config(format!(
            "`{key}` {text} does not exist on this host; create it or correct the key"
        )))
    })
}
