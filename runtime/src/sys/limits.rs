//! `setrlimit(2)`, `setpriority(2)` and `oom_score_adj`: the resource limits and priorities of this process.

use std::io;

use rustix::process::{Resource, Rlimit};

/// The resource of this name in getrlimit(2), in lowercase and without `RLIMIT_`.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Sets a limit, unless it has these values already.
pub(crate) fn set(name: &str, soft: Option<u64>, hard: Option<u64>) -> io::Result<()> {
    let Some(resource) = resource(name) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this release does not know that limit",
        ));
    };
    let now = rustix::process::getrlimit(resource);
    if (now.current, now.maximum) == (soft, hard) {
        return Ok(());
    }
    Ok(rustix::process::setrlimit(resource, Rlimit { current: soft, maximum: hard })?)
}

/// Raises the soft limit of descriptors to the hard limit. The soft limit is low only for the sake of
/// programs that use select(2), which cannot handle descriptors from 1024 on.
pub(crate) fn raise_descriptors() {
    let now = rustix::process::getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        let raised = Rlimit { current: now.maximum, maximum: now.maximum };
        // No privilege is needed for it. If it is refused all the same, the old limit stays.
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    }
}

/// The hard limit; the inner `None` means unlimited.
pub(crate) fn hard(name: &str) -> Option<Option<u64>> {
    Some(rustix::process::getrlimit(resource(name)?).maximum)
}

/// Sets the nice value, unless it has this value already.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    match rustix::process::getpriority_process(None)? == nice {
        true => Ok(()),
        false => Ok(rustix::process::setpriority_process(None, nice)?),
    }
}

/// Sets `oom_score_adj` (proc_pid_oom_score_adj(5)), unless it has this value already.
pub(crate) fn set_oom_score_adj(score: i32) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    match std::fs::read_to_string(FILE)?.trim() == score.to_string() {
        true => Ok(()),
        false => std::fs::write(FILE, score.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_limits_are_known() {
        for name in unbroken_schema::LIMITS {
            assert!(hard(name).is_some(), "{name}");
        }
        assert!(set("later", None, None).is_err());
    }
}
