//! `capset(2)`, and `PR_CAPBSET_*` and `PR_CAP_AMBIENT_*` of `prctl(2)`: capabilities(7) by name.

use std::io;

use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// The capability of this name, in lowercase and without `cap_`.
pub(crate) fn named(name: &str) -> Option<CapabilitySet> {
    let small = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    CapabilitySet::from_name(&name.to_ascii_uppercase()).filter(|_| small)
}

/// Lists the names in a set, for messages.
pub(crate) fn listed(set: CapabilitySet) -> String {
    let names: Vec<String> = set.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The permitted set of this process.
pub(crate) fn permitted() -> io::Result<CapabilitySet> {
    Ok(thread::capabilities(None)?.permitted)
}

/// Its effective set.
pub(crate) fn effective() -> io::Result<CapabilitySet> {
    Ok(thread::capabilities(None)?.effective)
}

/// Its bounding set: what an exec could add.
pub(crate) fn bounding() -> io::Result<CapabilitySet> {
    those(thread::capability_is_in_bounding_set)
}

/// Its ambient set: what it keeps across an exec.
pub(crate) fn ambient() -> io::Result<CapabilitySet> {
    those(thread::capability_is_in_ambient_set)
}

/// The capabilities that the kernel knows and for which `is_in` holds.
fn those(is_in: impl Fn(CapabilitySet) -> rustix::io::Result<bool>) -> io::Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match is_in(one) {
            Ok(true) => set |= one,
            Ok(false) => {}
            // The numbers have no gaps: this one and all above it are unknown to the kernel.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(set)
}

/// Removes all capabilities but `kept` from the bounding set.
pub(crate) fn bound(kept: CapabilitySet) -> io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if bounding()?.contains(one) && !kept.contains(one) {
            thread::remove_capability_from_bounding_set(one)?;
        }
    }
    Ok(())
}

/// Keeps the permitted set when this process stops being root, until the next exec.
pub(crate) fn keep_across_setuid() -> io::Result<()> {
    Ok(thread::set_keep_capabilities(true)?)
}

/// Makes `kept` the only capabilities of this process, also after an exec.
pub(crate) fn keep(kept: CapabilitySet) -> io::Result<()> {
    thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    thread::set_capabilities(None, sets)?;
    for one in kept.iter() {
        thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(thread::set_keep_capabilities(false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_schema() {
        assert_eq!(named("net_bind_service"), Some(CapabilitySet::NET_BIND_SERVICE));
        assert_eq!((named("NET_ADMIN"), named("cap_chown"), named("")), (None, None, None));
        let all = CapabilitySet::all();
        let mut names: Vec<_> = all.iter_names().map(|(it, _)| it.to_ascii_lowercase()).collect();
        names.sort();
        assert_eq!(names, unbroken_schema::CAPABILITIES);
        assert!(names.iter().all(|name| named(name).is_some()));
        let two = CapabilitySet::CHOWN | CapabilitySet::KILL;
        assert_eq!(listed(two), "chown, kill");
        assert_eq!(listed(CapabilitySet::empty()), "none");
    }
}
