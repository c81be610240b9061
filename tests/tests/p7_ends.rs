//! P7: how `main` ends, and what is said of it.

#![allow(clippy::expect_used)]

use unbroken_tests::http::Connection;
use unbroken_tests::{Bed, Status};

/// A daemon whose `main` ends like that.
fn bed(mode: &str) -> Bed {
    let mut bed = Bed::new("ends");
    bed.set("DAEMON_APP__MODE", mode);
    bed
}

#[track_caller]
fn open(status: &Status) -> Connection {
    Connection::open(&status.target("http")).expect("a connection")
}

/// A program that joins `serve` with an actor, which ends when its senders are dropped: one of them is in
/// the service.
#[test]
fn the_service_goes_with_the_future_that_serves() {
    for mode in ["joined", "dropped"] {
        let bed = bed(mode);
        let status = bed.start();
        let mut idle = open(&status);
        idle.get("/").expect("a response");
        let report = bed.restart();
        report.account().assert_balanced();
        let log = bed.log();
        let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no `{what}`\n{log}"));
        assert!(at("the actor has ended") < at("generation 1 is gone"), "{mode}\n{log}");
        let report = bed.stop();
        assert_eq!((report.account().forced, report.account().lost), (0, 0), "{report:?}");
        assert_eq!(bed.log().matches("the actor has ended").count(), 2, "{mode}\n{}", bed.log());
    }
}

/// Its link is down a moment before its process is gone.
#[test]
fn a_worker_that_ends_does_not_miss_its_supervisor() {
    for (fixture, mode) in [("fails-at-start", "-"), ("ends", "fails"), ("ends", "returns")] {
        let mut bed = Bed::new(fixture);
        bed.set("DAEMON_APP__MODE", mode);
        bed.set("DAEMON_LOG_FORMAT", "text");
        bed.set("DAEMON_RESTART", "no");
        bed.set("UNBROKEN_FAILPOINTS", "worker.before-exit=delay(150ms)");
        if fixture == "ends" {
            let status = bed.start();
            // Answered or cut.
            let _ = open(&status).get("/end");
            bed.wait_empty(unbroken_tests::bed::PATIENCE);
        } else {
            bed.verb(["start"]).expect_code(1);
        }
        let log = bed.log();
        assert!(!log.contains("the supervisor is gone"), "{fixture} {mode}\n{log}");
        bed.assert_nothing_left();
    }
}
