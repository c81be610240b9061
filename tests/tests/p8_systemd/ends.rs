//! Services that end by a stop, by watchdogs, and for lack of memory.

use std::time::{Duration, Instant};

use unbroken_tests::{SystemdHost, eventually};

use super::service::{SOON, Service, without_reloads};

/// The default of `drain_timeout`, which the service does not change.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// At `systemctl stop` the request in flight is finished, and systemd does not have to kill anything.
pub(crate) fn stop_finishes_requests_in_flight(machine: &SystemdHost) {
    let service = Service::started(machine, "drains", "http");
    let mut connection = service.connect().expect("a connection");
    connection.send("GET /wait/1500 HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    let status = || machine.run(["env", "DAEMON_NAME=drains", &service.image, "status"]).stdout;
    eventually("it is in flight", SOON, || status().contains("1 requests in flight"));
    let begun = Instant::now();
    service.systemctl("stop").expect_code(0);
    // By the drain deadline: what ends there was not finished but forced.
    assert!(begun.elapsed() < DRAIN_TIMEOUT, "{:?}", begun.elapsed());
    let response = connection.response().expect("a response");
    assert_eq!(response.number("generation"), Some(1));
    assert_eq!(service.show("Result"), "success");
    assert_eq!(service.show("ExecMainStatus"), "0");
    let journal = machine.run(["journalctl", "--unit", "drains"]).stdout;
    assert!(!journal.contains("SIGKILL"), "{journal}");
}

/// systemd's watchdog replaces a stopped main process. Reloads do not trigger it.
pub(crate) fn systemd_watchdog_replaces_a_stopped_daemon(machine: &SystemdHost) {
    let service = Service::new(machine, "watched", "http");
    service.unit(&[], &["--install", "--yes"]).expect_code(0);
    service.edit("WatchdogSec=1");
    let _counted = without_reloads();
    service.systemctl("start").expect_code(0);
    let main = service.show("MainPID");
    let begun = Instant::now();
    let mut reloads = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        service.systemctl("reload").expect_code(0);
        reloads += 1;
    }
    assert_eq!((service.show("MainPID"), service.show("NRestarts")), (main.clone(), "0".into()));
    assert_eq!(service.serves().1, reloads + 1);

    machine.shell(&format!("kill -STOP {main}")).expect_code(0);
    eventually("another one serves", SOON, || {
        service.show("NRestarts") == "1" && service.show("ActiveState") == "active"
    });
    assert_ne!(service.show("MainPID"), main);
    assert_eq!(service.serves(), ("1".into(), 1));
    let journal = machine.run(["journalctl", "--unit", "watched"]).stdout;
    assert!(journal.contains("Watchdog timeout"), "{journal}");
}

/// The supervisor replaces a worker that hangs; systemd does not restart the service.
pub(crate) fn own_watchdog_replaces_a_hanging_worker(machine: &SystemdHost) {
    let service = Service::new(machine, "own-watchdog", "confirm-modes");
    service.unit(&[("DAEMON_WATCHDOG", "500ms")], &["--install", "--yes"]).expect_code(0);
    service.systemctl("start").expect_code(0);
    let main = service.show("MainPID");
    let first = service.get("/").number("pid");
    let mut connection = service.connect().expect("a connection");
    connection.send("GET /block HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    eventually("it is replaced", SOON, || {
        service.journal().contains("has not responded to its watchdog for 0.5 s")
    });
    assert_ne!(service.get("/").number("pid"), first);
    assert_eq!((service.show("MainPID"), service.show("NRestarts")), (main, "0".into()));
}

/// The supervisor replaces a worker that the kernel killed for lack of memory, and the unit stays active.
pub(crate) fn worker_killed_for_memory_is_replaced(machine: &SystemdHost) {
    let service = Service::started(machine, "hoards", "http");
    assert_eq!(service.show("OOMPolicy"), "continue");
    let (main, worker) = (service.show("MainPID"), service.get("/").number("pid"));
    let limit = "systemctl set-property --runtime hoards MemoryMax=256M MemorySwapMax=0";
    machine.shell(limit).expect_code(0);
    let controllers = machine.run(["cat", "/sys/fs/cgroup/cgroup.controllers"]).stdout;
    if controllers.split_whitespace().any(|controller| controller == "memory") {
        let hoarded = service.connect().and_then(|mut connection| connection.get("/hoard"));
        assert!(hoarded.is_err(), "nobody kept it from that");
    } else {
        // If no cgroup can limit memory here, the test sends the kernel's signal.
        println!("{}: memory cannot be limited here", machine.suite());
        machine.shell(&format!("kill -KILL {}", worker.expect("a worker"))).expect_code(0);
    }
    eventually("it is replaced", SOON, || {
        let answer = service.connect().and_then(|mut connection| connection.get("/"));
        answer.is_ok_and(|answer| answer.number("pid") != worker)
    });
    let journal = service.journal();
    assert!(journal.contains("was killed by SIGKILL"), "{journal}");
    assert_eq!((service.show("MainPID"), service.show("NRestarts")), (main, "0".into()));
    assert_eq!(service.show("ActiveState"), "active");
}
