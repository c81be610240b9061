//! Drops a worker's privileges before user code runs, and verifies that they are gone.
//!
//! The supervisor keeps its own. Limits are set before the worker's image is executed if the settings are
//! known by then, and otherwise first thing in the worker. Everything else happens in the worker: after the
//! exec, because in a `chroot` the dynamic loader might be out of reach, and while it has one thread. Users
//! and groups are looked up there as well, because a lookup may ask a server, and a supervisor must not wait
//! for one.

pub(crate) mod accounts;

use std::io;

use rustix::thread::CapabilitySet;

use crate::config::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::privileges::{self as sys, Account};
use crate::sys::{capabilities, limits};

pub(crate) use accounts::Login;

/// Returns whether `no_new_privileges` applies: it is the default if there is a `user`.
fn gains_nothing(settings: &Settings) -> bool {
    settings.no_new_privileges.unwrap_or(settings.user.is_some())
}

/// An error whose remedy is in the configuration.
fn wrong(what: String, error: io::Error) -> Error {
    Error::os(ErrorKind::Config, what, error)
}

/// Sets the limits, the nice value and `oom_score_adj` of this process.
pub(crate) fn limit(settings: &Settings) -> Result<()> {
    if !settings.limits.contains_key("nofile") {
        limits::raise_descriptors();
    }
    for (name, limit) in &settings.limits {
        limits::set(name, limit.soft, limit.hard).map_err(|error| {
            let hard = match limits::hard(name).flatten() {
                Some(hard) => format!("the hard limit here is {hard}"),
                None => "there is no hard limit here".to_owned(),
            };
            wrong(
                format!(
                    "cannot set `limits.{name}` to {limit}; {hard}, and only root can raise it"
                ),
                error,
            )
        })?;
    }
    if let Some(nice) = settings.nice {
        limits::set_nice(nice).map_err(|error| {
            wrong(format!("cannot set `nice` to {nice}; only root can lower it"), error)
        })?;
    }
    if let Some(score) = settings.oom_score_adj {
        limits::set_oom_score_adj(score).map_err(|error| {
            wrong(format!("cannot set `oom_score_adj` to {score}; only root can lower it"), error)
        })?;
    }
    Ok(())
}

/// Applies the settings to this process. Returns its new user and groups and the user's login values, if the
/// settings have any.
pub(crate) fn apply(settings: &Settings) -> Result<(Option<Account>, Option<Login>)> {
    limit(settings)?;
    let identity = accounts::resolve(settings)?;
    // Looked up before `enter`: within a `chroot` the user database is out of reach.
    let login = accounts::login(settings)?;
    enter(settings)?;
    if let Some(umask) = settings.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    }
    drop_privileges(settings, identity.as_ref())?;
    Ok((identity, login))
}

/// Changes the root directory, and enters the working directory in it.
fn enter(settings: &Settings) -> Result<()> {
    if let Some(root) = &settings.chroot {
        sys::change_root(root).map_err(|error| {
            let what = format!(
                "cannot make `chroot` {} the root directory; create it, start as root, or remove the key",
                root.display()
            );
            wrong(what, error)
        })?;
    }
    if let Some(dir) = &settings.workdir {
        std::env::set_current_dir(dir).map_err(|error| {
            let within = if settings.chroot.is_some() { " within the `chroot`" } else { "" };
            let dir = dir.display();
            wrong(
                format!("cannot enter `workdir` {dir}{within}; create it or correct the key"),
                error,
            )
        })?;
    }
    Ok(())
}

/// Drops groups, group, user and capabilities, in this order: each step needs privileges that a later one
/// drops.
fn drop_privileges(settings: &Settings, identity: Option<&Account>) -> Result<()> {
    let kept = kept(settings, identity)?;
    let effective = capabilities::effective().map_err(unknown)?;
    // Without CAP_SETPCAP the bounding set cannot be changed; with `no_new_privileges` that does no harm,
    // since no exec can gain what the set allows.
    let bounded = kept.filter(|_| {
        (settings.capabilities.is_some() || gains_nothing(settings))
            && effective.contains(CapabilitySet::SETPCAP)
    });
    if let Some(kept) = bounded {
        capabilities::bound(kept).map_err(|error| {
            wrong("cannot drop capabilities from the bounding set".into(), error)
        })?;
    }
    if let Some(identity) = identity {
        change(settings, identity, kept.is_some())?;
    }
    if let Some(kept) = kept {
        capabilities::keep(kept).map_err(|error| {
            wrong(format!("cannot keep the `capabilities` {}", capabilities::listed(kept)), error)
        })?;
    }
    if gains_nothing(settings) {
        sys::set_no_new_privs()
            .map_err(|error| wrong("cannot set `no_new_privileges`".into(), error))?;
    }
    if settings.limits.get("core").is_some_and(|core| core.soft != Some(0)) {
        sys::set_dumpable().map_err(|error| wrong("cannot allow `limits.core`".into(), error))?;
    }
    verify(settings, identity, kept, bounded)
}

/// The capabilities that the worker keeps; `None`: they are left unchanged.
fn kept(settings: &Settings, identity: Option<&Account>) -> Result<Option<CapabilitySet>> {
    let Some(names) = &settings.capabilities else {
        let dropped = settings.user.is_some() && identity.is_some_and(|it| it.uid != 0);
        return Ok(dropped.then(CapabilitySet::empty));
    };
    let mut kept = CapabilitySet::empty();
    for name in names {
        kept |= capabilities::named(name).ok_or_else(|| {
            Error::config(format!(
                "`capabilities` contains {name}, which this release does not know"
            ))
        })?;
    }
    let missing = kept - capabilities::permitted().map_err(unknown)?;
    match missing.is_empty() {
        true => Ok(Some(kept)),
        false => Err(Error::config(format!(
            "this process does not have the `capabilities` {}; start it as root, or let its service \
             manager give them",
            capabilities::listed(missing)
        ))),
    }
}

/// Changes groups, group and user. If the process `keeps` capabilities, they stay permitted across the change
/// of user.
fn change(settings: &Settings, wanted: &Account, keeps: bool) -> Result<()> {
    let own = Account::own().map_err(unknown)?;
    let user = settings.user.as_deref().unwrap_or("root");
    let refused = |what: &str, error: io::Error| {
        let who = match own.uid {
            0 => "root may not do that here, as in a user namespace".to_owned(),
            uid => format!("this process is user {uid}; start it as root"),
        };
        wrong(format!("cannot {what}; {who}, or remove `user`, `group` and `groups`"), error)
    };
    if own.groups != wanted.groups {
        sys::set_groups(&wanted.groups)
            .map_err(|error| refused(&format!("set the groups of `{user}` (setgroups)"), error))?;
    }
    sys::set_group(wanted.gid)
        .map_err(|error| refused(&format!("become group {} (setresgid)", wanted.gid), error))?;
    if keeps {
        capabilities::keep_across_setuid().map_err(unknown)?;
    }
    sys::set_user(wanted.uid).map_err(|error| {
        refused(&format!("become user `{user}`, which is {} (setresuid)", wanted.uid), error)
    })
}

/// Verifies the result by what the kernel reports: some calls succeed without having any effect.
fn verify(
    settings: &Settings,
    identity: Option<&Account>,
    kept: Option<CapabilitySet>,
    bounded: Option<CapabilitySet>,
) -> Result<()> {
    let failed = |what: String| {
        Error::new(
            ErrorKind::Refused,
            format!("privileges were not dropped although every call succeeded: {what}"),
        )
    };
    if let Some(wanted) = identity {
        if !wanted.is_own().map_err(unknown)? {
            let own = Account::own().map_err(unknown)?;
            return Err(failed(format!(
                "the process is user {}, group {} and in groups {:?} instead of {}, {} and {:?}",
                own.uid, own.gid, own.groups, wanted.uid, wanted.gid, wanted.groups
            )));
        }
        let may = kept.is_some_and(|kept| kept.contains(CapabilitySet::SETUID));
        if settings.user.is_some() && wanted.uid != 0 && !may && sys::can_regain_root() {
            return Err(failed("the process can regain root".into()));
        }
    }
    let mut sets = Vec::new();
    if let Some(kept) = kept {
        sets.push(("permitted", kept, capabilities::permitted()));
        sets.push(("effective", kept, capabilities::effective()));
        sets.push(("ambient", kept, capabilities::ambient()));
    }
    sets.extend(bounded.map(|kept| ("bounding", kept, capabilities::bounding())));
    for (name, wanted, found) in sets {
        let found = found.map_err(unknown)?;
        if found != wanted {
            let (found, wanted) = (capabilities::listed(found), capabilities::listed(wanted));
            return Err(failed(format!("the {name} capabilities are {found} instead of {wanted}")));
        }
    }
    if gains_nothing(settings) && !sys::has_no_new_privs().map_err(unknown)? {
        return Err(failed("`no_new_privileges` is not in effect".into()));
    }
    Ok(())
}

fn unknown(error: io::Error) -> Error {
    Error::io("cannot read the privileges of this process", error)
}
