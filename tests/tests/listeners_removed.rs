//! Listeners that the new generation does not declare: clients that connect before they are closed are
//! answered, later ones are refused, and none is reset.

#![allow(clippy::expect_used)]

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::load::{Ledger, Outcome, Progress};
use unbroken_tests::{Load, Sandbox, Signal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Creates a sandbox with this confirm window and configuration file.
fn sandbox(fixture: &str, window: &str, configuration: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    sandbox.set("DAEMON_CONFIRM_WINDOW", window).set("DAEMON_DRAIN_TIMEOUT", "10s");
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    configure(&sandbox, configuration);
    sandbox
}

fn configure(sandbox: &Sandbox, text: &str) {
    fs::write(sandbox.path("app.toml"), text).expect("a file");
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Asserts that clients were answered until they were refused, and that no request failed otherwise.
#[track_caller]
fn assert_answered_or_refused(ledger: &Ledger) {
    let refused = ledger.count(Outcome::ConnectRefused);
    // The file of a unix socket that is closed is removed as well.
    let gone = |detail: &str| detail.contains("No such file");
    let nowhere = ledger
        .failures
        .iter()
        .all(|failure| failure.outcome != Outcome::ConnectOther || gone(&failure.detail));
    let other = if nowhere { ledger.count(Outcome::ConnectOther) } else { 0 };
    assert_eq!(ledger.failed(), refused + other, "{ledger}");
    assert!(ledger.count(Outcome::Ok) > 0 && ledger.failed() > 0, "{ledger}");
}

/// Removes a listener by a restart under load.
#[track_caller]
fn through_a_restart(window: &str, configuration: impl Fn(&Sandbox) -> String) {
    let sandbox = sandbox("http-v3-listeners", window, "");
    configure(&sandbox, &configuration(&sandbox));
    let status = sandbox.start();
    let (http, admin) = (status.target("http"), status.target("admin"));
    let stays = Load::on(http).new_connections(4).start();
    let goes = Load::on(admin.clone()).new_connections(8).start();
    let rare = Load::on(admin.clone()).new_connections(1).rate(50.0).start();
    goes.wait_for(200);
    sandbox.deploy("http");
    configure(&sandbox, "");
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
    assert!(!admin.accepts());
    stays.wait_for(200);
    stays.stop().assert_nothing_failed();
    for load in [goes, rare] {
        load.wait_for(5);
        assert_answered_or_refused(&load.stop());
    }
    assert_eq!(sandbox.status().listeners.len(), 1);
    sandbox.stop();
}

#[test]
fn clients_of_a_removed_listener_are_not_reset() {
    through_a_restart("0s", |_| String::new());
}

#[test]
fn clients_are_not_reset_after_a_confirm_window() {
    through_a_restart("1s", |_| String::new());
}

#[test]
fn clients_of_a_removed_unix_listener_are_not_reset() {
    for window in ["0s", "1s"] {
        through_a_restart(window, |sandbox| {
            format!("[listen]\nadmin = \"{}\"\n", unix(&sandbox.path("admin.sock")))
        });
    }
}

/// Until the new generation is confirmed, the old one serves the listener that only it has.
#[test]
fn old_worker_serves_a_removed_listener_until_confirm() {
    let sandbox = sandbox("http-v3-listeners", "60s", "");
    let status = sandbox.start();
    let (http, admin) = (status.target("http"), status.target("admin"));
    sandbox.deploy("confirm-modes");
    configure(&sandbox, "[app]\nmode = \"good\"\n");
    let restart = sandbox.spawn(["restart", "--json"]);
    eventually("it is committed", SOON, || sandbox.status().generation == Some(2));
    let asked = |target: &Target| {
        let response = Connection::open(target).and_then(|mut it| it.get("/"));
        response.expect("a response").number("generation")
    };
    for _ in 0..50 {
        assert_eq!((asked(&http), asked(&admin)), (Some(2), Some(1)));
    }
    sandbox.worker().kill();
    restart.wait(SOON).expect_code(1);
    assert_eq!((asked(&http), asked(&admin)), (Some(1), Some(1)));
    sandbox.stop();
}

/// A restart that is aborted in the confirm window does not affect the clients of the removed listener.
#[test]
fn aborted_restart_keeps_the_listener() {
    let sandbox = sandbox("http-v3-listeners", "2s", "");
    let admin = sandbox.start().target("admin");
    let load = Load::on(admin.clone()).new_connections(8).start();
    load.wait_for(200);
    sandbox.deploy("confirm-modes");
    for mode in ["sick", "check fails", "sick at start"] {
        configure(&sandbox, &format!("[app]\nmode = \"{mode}\"\n"));
        sandbox.restart_aborts();
        load.wait_for(200);
    }
    let ledger = load.stop();
    ledger.assert_nothing_failed();
    assert!(ledger.seen.iter().all(|seen| seen.generation == 1), "{ledger}");
    sandbox.deploy("http-v3-listeners");
    sandbox.restart();
    assert_eq!(sandbox.target("admin"), admin);
    assert!(admin.accepts());
    sandbox.stop();
}

/// Clients in the accept queue of a removed listener are answered although the worker was stopped when it
/// should have drained.
#[test]
fn queue_of_a_removed_listener_is_answered() {
    for window in ["0s", "1s"] {
        for socket in ["tcp", "unix"] {
            let sandbox = sandbox("http-v3-listeners", window, "");
            if socket == "unix" {
                let path = unix(&sandbox.path("admin.sock"));
                configure(&sandbox, &format!("[listen]\nadmin = \"{path}\"\n"));
            }
            let admin = sandbox.start().target("admin");
            let old = sandbox.worker();
            old.signal(Signal::STOP);
            let load = Load::on(admin.clone()).new_connections(100).requests(100).start();
            let all = |progress: &Progress| progress.connections() == 100;
            assert!(load.progress().wait(Instant::now() + SOON, all));
            sandbox.deploy("http");
            configure(&sandbox, "");
            let restart = sandbox.spawn(["restart", "--json"]);
            let retired = || {
                let workers = sandbox.status().workers;
                workers.iter().any(|worker| worker.generation == 1 && worker.state == "draining")
            };
            eventually("it is to drain", SOON, retired);
            old.signal(Signal::CONT);
            load.join().assert_nothing_failed();
            restart.wait(SOON).expect_code(0);
            assert!(!admin.accepts());
            sandbox.stop();
        }
    }
}

/// The file of a removed unix listener stays until the old generation ends. Another file in its place is not
/// removed.
#[test]
fn socket_file_is_removed_with_the_old_generation() {
    let sandbox = sandbox("http-v3-listeners", "0s", "");
    let path = sandbox.path("admin.sock");
    let declared = format!("[listen]\nadmin = \"{}\"\n", unix(&path));
    configure(&sandbox, &declared);
    let refused = || {
        let error = UnixStream::connect(&path).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    for theirs in [false, true] {
        sandbox.deploy("http-v3-listeners");
        match theirs {
            false => drop(sandbox.start()),
            true => drop(sandbox.restart()),
        }
        let admin = sandbox.target("admin");
        let slow = Load::on(admin).new_connections(1).paths(["/slow"]).requests(1).start();
        eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
        sandbox.deploy("http");
        configure(&sandbox, "");
        let restart = sandbox.spawn(["restart", "--json"]);
        eventually("it is closed", SOON, refused);
        assert!(path.exists());
        if theirs {
            fs::remove_file(&path).expect("a socket");
            fs::write(&path, "precious").expect("a file");
        }
        restart.wait(SOON).expect_code(0);
        slow.join().assert_nothing_failed();
        assert_eq!(path.exists(), theirs);
        configure(&sandbox, &declared);
    }
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    fs::remove_file(&path).expect("a file");
    configure(&sandbox, "");
    sandbox.stop();
}

/// A listener that gets the address of another one keeps serving there; its own old address is closed.
#[test]
fn listener_takes_the_address_of_another() {
    let sandbox = sandbox("http-v3-listeners", "1s", "");
    let (a, b) = (sandbox.path("a.sock"), sandbox.path("b.sock"));
    configure(&sandbox, &format!("[listen]\nhttp = \"{}\"\nadmin = \"{}\"\n", unix(&a), unix(&b)));
    let status = sandbox.start();
    let goes = Load::on(status.target("http")).new_connections(4).start();
    let stays = Load::on(status.target("admin")).new_connections(4).start();
    stays.wait_for(100);
    sandbox.deploy("http");
    configure(&sandbox, &format!("[listen]\nhttp = \"{}\"\n", unix(&b)));
    sandbox.restart();
    stays.wait_for_generation(2);
    goes.wait_for(5);
    stays.stop().assert_nothing_failed();
    assert_answered_or_refused(&goes.stop());
    assert!(b.exists() && !a.exists());
    sandbox.stop();
}

/// A removed listener can be declared again at the same address.
#[test]
fn removed_listener_can_be_declared_again() {
    let sandbox = sandbox("http-v3-listeners", "0s", "");
    let path = sandbox.path("admin.sock");
    let declared = format!("[listen]\nadmin = \"{}\"\n", unix(&path));
    for _ in 0..3 {
        sandbox.deploy("http-v3-listeners");
        configure(&sandbox, &declared);
        match sandbox.try_status() {
            None => drop(sandbox.start()),
            Some(_) => drop(sandbox.restart()),
        }
        assert!(sandbox.target("admin").accepts());
        sandbox.deploy("http");
        configure(&sandbox, "");
        sandbox.restart();
        assert!(!path.exists());
    }
    sandbox.stop();
}

// ---- without async ------------------------------------------------------------------------------

/// Sends a line over a new connection and returns the answer, or `None` if the connection is refused.
fn asked(target: &Target) -> io::Result<Option<String>> {
    fn exchange(stream: impl io::Read + Write) -> io::Result<String> {
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        match stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
    let connected = match target {
        Target::Tcp(addr) => TcpStream::connect(addr).map(exchange),
        Target::Unix(path) => UnixStream::connect(path).map(exchange),
    };
    match connected {
        Ok(exchanged) => exchanged.map(Some),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sends lines, each over a new connection, until a connection is refused. Returns the number of answers.
fn asks(target: &Target) -> JoinHandle<io::Result<u64>> {
    let target = target.clone();
    std::thread::spawn(move || {
        let mut answers = 0;
        while let Some(line) = asked(&target)? {
            assert_eq!(line, "1 hello\n");
            answers += 1;
        }
        Ok(answers)
    })
}

#[test]
fn clients_of_a_removed_blocking_listener_are_not_reset() {
    for window in ["0s", "1s"] {
        for socket in ["tcp", "unix"] {
            let sandbox = sandbox("sync", window, "");
            let (old, new) = (sandbox.path("old.sock"), sandbox.path("new.sock"));
            if socket == "unix" {
                configure(&sandbox, &format!("[listen]\necho = \"{}\"\n", unix(&old)));
            }
            let target = sandbox.start().target("echo");
            asked(&target).expect("an answer");
            let clients: Vec<_> = (0..8).map(|_| asks(&target)).collect();
            configure(&sandbox, &format!("[listen]\necho = \"{}\"\n", unix(&new)));
            let report = sandbox.restart();
            assert_eq!((report.ledger().forced, report.ledger().lost), (0, 0), "{report:?}");
            // A client may have had no answer before the listener was closed.
            for client in clients {
                client.join().expect("a client").expect("no connection lost");
            }
            let answer = asked(&Target::Unix(new)).expect("an answer");
            assert_eq!(answer.as_deref(), Some("2 hello\n"));
            sandbox.stop();
        }
    }
}

/// A removed blocking listener accepts again after each of several restarts that are aborted in the confirm
/// window.
#[test]
fn blocking_listener_resumes_after_aborted_restarts() {
    let sandbox = sandbox("sync", "60s", "");
    let target = sandbox.start().target("echo");
    let clients: Vec<_> = (0..4).map(|_| asks(&target)).collect();
    configure(&sandbox, &format!("[listen]\necho = \"{}\"\n", unix(&sandbox.path("new.sock"))));
    for _ in 0..3 {
        let restart = sandbox.spawn(["restart", "--json"]);
        eventually("it is committed", SOON, || {
            sandbox.status().generation.is_some_and(|generation| generation > 1)
        });
        assert_eq!(asked(&target).expect("an answer").as_deref(), Some("1 hello\n"));
        sandbox.worker().kill();
        restart.wait(SOON).expect_code(1);
        assert_eq!(asked(&target).expect("an answer").as_deref(), Some("1 hello\n"));
    }
    sandbox.verb(["stop"]).expect_code(0);
    for client in clients {
        // The stop may have cut a connection in the accept queue.
        let _ = client.join();
    }
    sandbox.assert_nothing_left();
}
