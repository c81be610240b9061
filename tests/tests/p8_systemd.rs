//! P8: the daemon under a real systemd: 252 (bookworm) and 257 (trixie).
//!
//! The units are those that `unit --install` writes. A few scenarios change them.

#![allow(clippy::expect_used)]

#[path = "p8_systemd/activation.rs"]
mod activation;
#[path = "p8_systemd/ends.rs"]
mod ends;
#[path = "p8_systemd/reloads.rs"]
mod reloads;
#[path = "p8_systemd/service.rs"]
mod service;
#[path = "p8_systemd/starts.rs"]
mod starts;
#[path = "p8_systemd/units.rs"]
mod units;

use std::process::Command;
use std::sync::OnceLock;

use unbroken_tests::{Machine, eventually};

/// Makes each scenario a test for each Debian suite. One machine per suite is booted for all of them.
macro_rules! scenarios {
    ($($module:ident: $($scenario:ident)*;)*) => {
        mod bookworm { $($(
            #[test]
            fn $scenario() {
                super::on(&super::BOOKWORM, "bookworm", super::$module::$scenario);
            }
        )*)* }
        mod trixie { $($(
            #[test]
            fn $scenario() {
                super::on(&super::TRIXIE, "trixie", super::$module::$scenario);
            }
        )*)* }
    };
}

scenarios! {
    starts: start failing_start wrong_configuration drop_in_the_program solo odd_paths_and_values;
    reloads: reload_under_load reload_with_a_bad_binary twenty_reloads reload_by_signal;
    ends: stop_within_the_drain systemds_watchdog own_watchdog killed_for_memory;
    units: verify_and_security install;
    activation: socket_activation store_over_restarts store_over_a_kill store_of_a_unix_socket;
}

static BOOKWORM: OnceLock<Option<Machine>> = OnceLock::new();
static TRIXIE: OnceLock<Option<Machine>> = OnceLock::new();

/// Runs a scenario on a machine. Does nothing if no machine can be booted here.
fn on(machine: &OnceLock<Option<Machine>>, suite: &'static str, scenario: fn(&Machine)) {
    if let Some(machine) = machine.get_or_init(|| Machine::boot(suite)) {
        scenario(machine);
    }
}

/// A machine ends when it is dropped, and when its keeper is killed.
#[test]
fn nothing_is_left_of_a_machine() {
    let cgroup = |init: u32| {
        let mut find = Command::new("find");
        let found =
            find.args(["/sys/fs/cgroup", "-name", &format!("unbroken-box.{init}")]).output();
        !found.expect("find").stdout.is_empty()
    };
    let Some(machine) = Machine::boot("bookworm") else { return };
    let (init, keeper) = (machine.init(), machine.keeper());
    assert!(cgroup(init.pid()));
    drop(machine);
    assert!(init.wait_gone(service::SOON) && keeper.wait_gone(service::SOON));
    assert!(!cgroup(init.pid()));

    let Some(machine) = Machine::boot("bookworm") else { return };
    let init = machine.init();
    machine.keeper().kill();
    assert!(init.wait_gone(service::SOON));
    drop(machine);
    // The next boot removes the cgroup that a killed keeper has left.
    let Some(_machine) = Machine::boot("bookworm") else { return };
    eventually("it is swept up", service::SOON, || !cgroup(init.pid()));
}
