//! Sockets that outlive the service: those of `.socket` units, and those in systemd's fd store.

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::Outcome;
use unbroken_tests::{Load, SystemdHost, eventually};

use super::service::{SOON, Service, without_reloads};

/// The first connection starts the service, and none is refused from then on.
pub(crate) fn first_connection_starts_the_service(machine: &SystemdHost) {
    let service = Service::new(machine, "activated", "http");
    service.unit(&[], &["--install", "--yes", "--socket"]).expect_code(0);
    machine.run(["systemctl", "start", "activated-http.socket"]).expect_code(0);
    assert_eq!(service.show("ActiveState"), "inactive");
    assert_eq!(service.serves(), ("1".into(), 1));
    assert_eq!(service.show("ActiveState"), "active");

    let load = service.load(|load| load.new_connections(8));
    for restart in 1..=3 {
        load.wait_for(50);
        let main = service.show("MainPID");
        service.systemctl("restart").expect_code(0);
        assert_ne!(service.show("MainPID"), main, "restart {restart}");
        // A reload in between has the same sockets.
        service.deploy(if restart % 2 == 1 { "http-v2" } else { "http" });
        service.systemctl("reload").expect_code(0);
        load.wait_for_generation(2);
    }
    load.wait_for(50);
    load.stop().assert_nothing_failed();
    machine.run(["systemctl", "stop", "activated-http.socket", "activated"]).expect_code(0);
}

/// Without a `.socket` unit the fd store keeps the listeners across `systemctl restart`.
pub(crate) fn store_survives_restarts(machine: &SystemdHost) {
    let service = Service::started(machine, "stored", "http");
    eventually("it is kept", SOON, || service.show("NFileDescriptorStore") == "1");
    let loads =
        [service.load(|load| load.new_connections(8)), service.load(|load| load.keep_alive(8))];
    for _ in 0..3 {
        loads.iter().for_each(|load| load.wait_for(50));
        let main = service.show("MainPID");
        service.systemctl("restart").expect_code(0);
        assert_ne!(service.show("MainPID"), main);
    }
    loads.iter().for_each(|load| load.wait_for(50));
    loads.into_iter().for_each(|load| load.stop().assert_nothing_failed());
    service.systemctl("stop").expect_code(0);
    assert!(service.connect().is_err(), "nobody listens after a stop");
}

/// If the whole service is killed, requests in flight are lost, but no connection is refused.
pub(crate) fn store_survives_a_kill(machine: &SystemdHost) {
    let service = Service::started(machine, "killed", "http");
    eventually("it is kept", SOON, || service.show("NFileDescriptorStore") == "1");
    let load = service.load(|load| load.new_connections(8));
    let _counted = without_reloads();
    for kill in 1..=2 {
        load.wait_for(50);
        machine.run(["systemctl", "kill", "--signal=KILL", "killed"]).expect_code(0);
        eventually("it is back", SOON, || {
            service.show("NRestarts") == kill.to_string() && service.show("ActiveState") == "active"
        });
    }
    load.wait_for(50);
    let ledger = load.stop();
    assert_eq!(ledger.count(Outcome::ConnectRefused), 0, "{ledger}");
    assert_eq!(ledger.count(Outcome::ConnectTimeout), 0, "{ledger}");
}

/// The file of a unix socket stays, with the socket in the fd store, across `systemctl restart`.
pub(crate) fn store_keeps_the_file_of_a_unix_socket(machine: &SystemdHost) {
    let service = Service::new(machine, "unix-stored", "http");
    let path = "/run/unix-stored/http.sock";
    let listen = format!("unix:{path}");
    service.unit(&[("DAEMON_LISTEN_HTTP", &listen)], &["--install", "--yes"]).expect_code(0);
    service.systemctl("start").expect_code(0);
    eventually("it is kept", SOON, || service.show("NFileDescriptorStore") == "1");
    let target = Target::Unix(machine.path(path));
    let load = Load::on(target.clone()).new_connections(4).start();
    for _ in 0..2 {
        load.wait_for(50);
        service.systemctl("restart").expect_code(0);
    }
    load.wait_for(50);
    load.stop().assert_nothing_failed();
    let response = Connection::open(&target).and_then(|mut it| it.get("/")).expect("a response");
    assert_eq!(response.number("generation"), Some(1));
}
