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

use unbroken_tests::{SystemdHost, eventually};

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
    starts:
        start_returns_when_serving
        failing_start_is_reported
        wrong_configuration_is_not_retried
        program_drops_privileges
        solo_daemon_starts_and_stops
        odd_paths_and_values_arrive_unchanged;
    reloads:
        no_request_fails_over_reloads
        reload_with_a_bad_binary_fails
        reloads_keep_the_main_pid
        notify_reload_returns_when_new_code_serves;
    ends:
        stop_finishes_requests_in_flight
        systemd_watchdog_replaces_a_stopped_daemon
        own_watchdog_replaces_a_hanging_worker
        worker_killed_for_memory_is_replaced;
    units:
        units_pass_verify_and_security
        install_asks_and_shows_the_difference;
    activation:
        first_connection_starts_the_service
        store_survives_restarts
        store_survives_a_kill
        store_keeps_the_file_of_a_unix_socket;
}

static BOOKWORM: OnceLock<Option<SystemdHost>> = OnceLock::new();
static TRIXIE: OnceLock<Option<SystemdHost>> = OnceLock::new();

/// Runs a scenario on a machine. Does nothing if no machine can be booted here.
fn on(machine: &OnceLock<Option<SystemdHost>>, suite: &'static str, scenario: fn(&SystemdHost)) {
    if let Some(machine) = machine.get_or_init(|| SystemdHost::boot(suite)) {
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
    let Some(machine) = SystemdHost::boot("bookworm") else { return };
    let (init, keeper) = (machine.init(), machine.keeper());
    assert!(cgroup(init.pid()));
    drop(machine);
    assert!(init.wait_gone(service::SOON) && keeper.wait_gone(service::SOON));
    assert!(!cgroup(init.pid()));

    let Some(machine) = SystemdHost::boot("bookworm") else { return };
    let init = machine.init();
    machine.keeper().kill();
    assert!(init.wait_gone(service::SOON));
    drop(machine);
    // The next boot removes the cgroup that a killed keeper has left.
    let Some(_machine) = SystemdHost::boot("bookworm") else { return };
    eventually("it is swept up", service::SOON, || !cgroup(init.pid()));
}
