//! `systemctl reload` brings new code into the running service.

use std::time::Duration;

use unbroken_tests::SystemdHost;

use super::service::Service;

/// No request fails over reloads, on several kinds of connections.
pub(crate) fn no_request_fails_over_reloads(machine: &SystemdHost) {
    let service = Service::started(machine, "load", "http");
    let main = service.show("MainPID");
    let loads = [
        service.load(|load| load.keep_alive(8)),
        service.load(|load| load.new_connections(8)),
        service.load(|load| load.keep_alive(30).pause(Duration::from_millis(20))),
    ];
    for reload in 1..=6 {
        service.deploy(if reload % 2 == 1 { "http-v2" } else { "http" });
        loads.iter().for_each(|load| load.wait_for(50));
        service.systemctl("reload").expect_code(0);
        loads.iter().for_each(|load| load.wait_for_generation(reload + 1));
        assert_eq!(service.show("MainPID"), main);
    }
    for ledger in loads.map(|load| load.stop()) {
        ledger.assert_nothing_failed();
        assert_eq!(ledger.generations().len(), 7, "{ledger}");
        println!("{}: {} requests, none failed", machine.suite(), ledger.ok());
    }
}

/// A reload with a bad binary fails with the reason, and the service is unchanged.
pub(crate) fn reload_with_a_bad_binary_fails(machine: &SystemdHost) {
    let service = Service::started(machine, "bad-binary", "http");
    let main = service.show("MainPID");
    service.deploy("fails-at-start");
    assert_ne!(service.systemctl("reload").code(), 0);
    assert_eq!(service.show("ActiveState"), "active");
    assert_eq!(service.show("MainPID"), main);
    assert_eq!(service.serves(), ("1".into(), 1));
    let text = service.show("StatusText");
    assert!(text.starts_with("generation 1 serves; last restart: "), "{text}");
    assert!(text.contains("exited with code 1"), "{text}");
    assert!(service.journal().contains("cannot open the database"));
    service.deploy("http-v2");
    service.systemctl("reload").expect_code(0);
    assert_eq!(service.serves().0, "2");
    assert_eq!(service.show("NRestarts"), "0");
}

/// Over twenty reloads the main process keeps its PID, and runs the new program each time.
pub(crate) fn reloads_keep_the_main_pid(machine: &SystemdHost) {
    let service = Service::started(machine, "twenty", "http");
    let main = service.show("MainPID");
    for reload in 1..=20 {
        let (fixture, version) = if reload % 2 == 1 { ("http-v2", "2") } else { ("http", "1") };
        service.deploy(fixture);
        service.systemctl("reload").expect_code(0);
        assert_eq!(service.serves(), (version.into(), reload + 1));
        assert_eq!(service.show("MainPID"), main);
        let exe = machine.run(["readlink", &format!("/proc/{main}/exe")]).expect_code(0);
        assert_eq!(exe.stdout.trim(), format!("/box/fixture-{fixture}"));
    }
    assert_eq!(service.show("StatusText"), "generation 21 serves");
    assert_eq!(service.show("NRestarts"), "0");
}

/// With `--notify-reload` a reload returns when the new code serves, if systemd supports that type.
pub(crate) fn notify_reload_returns_when_new_code_serves(machine: &SystemdHost) {
    let service = Service::new(machine, "by-signal", "http");
    service.unit(&[], &["--install", "--yes", "--notify-reload"]).expect_code(0);
    service.systemctl("start").expect_code(0);
    if machine.suite() == "bookworm" {
        // systemd 252 does not know `Type=notify-reload` and falls back to `simple`.
        assert_eq!(service.show("Type"), "simple");
        return;
    }
    let main = service.show("MainPID");
    for reload in 1..=4 {
        let (fixture, version) = if reload % 2 == 1 { ("http-v2", "2") } else { ("http", "1") };
        service.deploy(fixture);
        service.systemctl("reload").expect_code(0);
        assert_eq!(service.serves(), (version.into(), reload + 1));
    }
    service.deploy("fails-at-start");
    service.systemctl("reload").expect_code(0);
    assert_eq!((service.show("ActiveState"), service.show("MainPID")), ("active".into(), main));
    let text = service.show("StatusText");
    assert!(text.starts_with("generation 5 serves; last restart: "), "{text}");
}
