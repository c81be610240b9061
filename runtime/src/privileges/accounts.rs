//! Users and groups of the configuration as the numbers that the kernel knows.

use std::path::PathBuf;

use crate::config::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::privileges::{self as sys, Account, User};

/// Why a user or group of the settings cannot be found.
#[derive(Debug)]
pub(super) struct Unresolved {
    /// The key that names it.
    pub(super) key: &'static str,
    pub(super) error: Error,
}

impl From<Unresolved> for Error {
    fn from(unresolved: Unresolved) -> Error {
        unresolved.error
    }
}

/// The account that the settings name, if they name one.
pub(super) fn resolve(settings: &Settings) -> Result<Option<Account>, Unresolved> {
    let (user, group, groups) = (&settings.user, &settings.group, &settings.groups);
    if user.is_none() && group.is_none() && groups.is_none() {
        return Ok(None);
    }
    let own = Account::own()
        .map_err(|error| Error::io("cannot examine the privileges of this process", error))
        .map_err(of_user)?;
    let entry = user.as_deref().map(find).transpose().map_err(of_user)?;
    let (uid, entry) = match entry {
        None => (own.uid, None),
        Some(Found::Entry(entry)) => (entry.uid, Some(entry)),
        Some(Found::Number(uid)) => (uid, None),
    };
    // Who stays what it is keeps its groups.
    let stays = uid == own.uid && uid != 0;
    let gid = match (group, &entry) {
        (Some(name), _) => group_of("group", name)?,
        (None, Some(entry)) => entry.gid,
        (None, None) if user.is_none() || stays => own.gid,
        (None, None) => {
            return Err(of_user(Error::config(format!(
                "`user` {uid} has no entry in the user database that would tell its group; set `group`"
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

/// What a user finds in its environment when it logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// `None` for a number that the user database does not have.
    pub(crate) name: Option<String>,
    pub(crate) home: PathBuf,
    pub(crate) shell: Option<PathBuf>,
}

/// That of `user`, where the settings have one.
pub(super) fn login(settings: &Settings) -> Result<Option<Login>> {
    let Some(user) = &settings.user else { return Ok(None) };
    Ok(Some(match find(user)? {
        Found::Entry(User { name, home, shell, .. }) => {
            Login { name: Some(name), home, shell: Some(shell) }
        }
        Found::Number(_) => Login { name: None, home: PathBuf::from("/"), shell: None },
    }))
}

enum Found {
    Entry(User),
    /// A number that the database does not have.
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

fn of_user(error: Error) -> Unresolved {
    Unresolved { key: "user", error }
}

fn group_of(key: &'static str, text: &str) -> Result<u32, Unresolved> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let found = sys::group(text).map_err(|error| {
        let what = format!("cannot look up `{key}` {text}");
        Unresolved { key, error: Error::os(ErrorKind::Config, what, error) }
    })?;
    found.ok_or_else(|| {
        let message =
            format!("`{key}` {text} does not exist on this host; create it or correct the key");
        Unresolved { key, error: Error::config(message) }
    })
}
