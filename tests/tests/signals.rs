//! The effect of each signal on the supervisor, on a worker, and from a terminal.

#![allow(clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use unbroken_tests::http::Connection;
use unbroken_tests::load::Running;
use unbroken_tests::{Load, Process, Sandbox, Signal, Terminal, eventually};

const SOON: Duration = Duration::from_secs(20);

/// Starts one slow request and waits until it is in flight.
fn slow(sandbox: &Sandbox) -> Running {
    let load =
        Load::on(sandbox.target("http")).new_connections(1).paths(["/slow"]).requests(1).start();
    eventually("in flight", SOON, || sandbox.status().serving().requests_in_flight == 1);
    load
}

fn drains(signal: Signal) {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let daemon = sandbox.foreground();
        let slow = slow(&sandbox);
        daemon.process().signal(signal);
        slow.join().assert_nothing_failed();
        daemon.wait(SOON).expect_code(0);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn term_drains() {
    drains(Signal::TERM);
}

#[test]
fn int_drains() {
    drains(Signal::INT);
}

fn stops_at_once(signals: &[Signal]) {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let daemon = sandbox.foreground();
        let slow = slow(&sandbox);
        let begun = Instant::now();
        for signal in signals {
            daemon.process().signal(*signal);
            // Two pending signals with the same number would be merged into one.
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon.wait(Duration::from_millis(2500));
        assert!(begun.elapsed() < Duration::from_millis(2500));
        assert_eq!(slow.join().failed(), 1, "it was in flight");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn quit_stops_at_once() {
    stops_at_once(&[Signal::QUIT]);
}

#[test]
fn second_term_stops_at_once() {
    stops_at_once(&[Signal::TERM, Signal::TERM]);
}

#[test]
fn second_int_stops_at_once() {
    stops_at_once(&[Signal::INT, Signal::INT]);
}

fn restarts(signal: Signal) {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    let load = Load::on(status.target("http")).keep_alive(4).start();
    load.wait_for(100);
    sandbox.deploy("http-v2");
    let supervisor = sandbox.supervisor();
    supervisor.signal(signal);
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(2));
    assert_eq!(sandbox.status().pid, status.pid);

    // A bad image aborts the restart, although no caller waits for the answer.
    sandbox.deploy("fails-at-start");
    supervisor.signal(signal);
    eventually("the restart is aborted", SOON, || {
        sandbox.status().last_restart().is_some_and(|last| last.result == "aborted")
    });
    assert!(sandbox.log().contains("cannot open the database"), "{}", sandbox.log());
    assert_eq!(sandbox.get("/").expect("a response").number("version"), Some(2));
    sandbox.stop();
}

#[test]
fn hup_restarts() {
    restarts(Signal::HUP);
}

#[test]
fn usr2_restarts() {
    restarts(Signal::USR2);
}

#[test]
fn usr1_reopens_the_log() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        sandbox.start();
        sandbox.get("/log/before").expect("a response");
        eventually("a line", SOON, || sandbox.log().contains("before"));
        fs::rename(sandbox.log_file(), sandbox.path("app.log.1")).expect("a log");
        let pid = sandbox.status().pid;
        sandbox.supervisor().signal(Signal::USR1);
        eventually("a new log", SOON, || sandbox.log_file().exists());
        eventually("lines in it", SOON, || {
            sandbox.get("/log/after").expect("a response");
            sandbox.log().contains("after")
        });
        let old = fs::read_to_string(sandbox.path("app.log.1")).expect("the old log");
        assert!(old.contains("before"), "{old}");
        assert_eq!((sandbox.status().pid, sandbox.status().generation), (pid, Some(1)));
        sandbox.stop();
    }
}

/// Workers discard the signals that are meant for the supervisor. Ctrl-C, `pkill` and systemd send them to
/// workers too.
#[test]
fn workers_discard_signals_for_the_supervisor() {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    let worker = sandbox.worker();
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
        worker.signal(signal);
        assert!(!worker.wait_gone(Duration::from_millis(100)), "{signal:?}");
    }
    let now = sandbox.status();
    assert_eq!((now.serving().pid, now.generation), (status.serving().pid, status.generation));
    assert_eq!(sandbox.get("/").expect("a response").status, 200);
    sandbox.stop();
}

/// SIGTERM to all processes at once, as by `pkill`, drains the daemon.
#[test]
fn term_to_all_processes_drains() {
    let sandbox = Sandbox::new("http");
    let daemon = sandbox.foreground();
    let slow = slow(&sandbox);
    sandbox.processes().iter().for_each(|process| process.signal(Signal::TERM));
    slow.join().assert_nothing_failed();
    daemon.wait(SOON).expect_code(0);
    sandbox.assert_nothing_left();
}

/// A daemon that was stopped and continued by signals has the same worker.
#[test]
fn stopped_and_continued_daemon_keeps_its_worker() {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    for process in sandbox.processes() {
        process.signal(Signal::STOP);
    }
    for process in sandbox.processes() {
        process.signal(Signal::CONT);
    }
    assert_eq!(sandbox.status().serving().pid, status.serving().pid);
    sandbox.stop();
}

/// Ctrl-C, which reaches the whole foreground process group, drains the daemon and does not count as two
/// signals.
#[test]
fn ctrl_c_drains_once() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let terminal = Terminal::spawn(&sandbox.command(["run"]));
        sandbox.wait_serving();
        let slow = slow(&sandbox);
        terminal.keys("\x03");
        slow.join().assert_nothing_failed();
        terminal.wait(SOON).expect_code(0);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn ctrl_c_twice_stops_at_once() {
    let sandbox = Sandbox::new("http");
    let terminal = Terminal::spawn(&sandbox.command(["run"]));
    sandbox.wait_serving();
    let slow = slow(&sandbox);
    let begun = Instant::now();
    terminal.keys("\x03");
    std::thread::sleep(Duration::from_millis(200));
    terminal.keys("\x03");
    terminal.wait(SOON);
    assert!(begun.elapsed() < Duration::from_millis(2500));
    assert_eq!(slow.join().failed(), 1);
    sandbox.assert_nothing_left();
}

/// A daemon in the foreground drains and stops when its terminal hangs up.
#[test]
fn hang_up_in_the_foreground_stops() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let mut terminal = Terminal::spawn(&sandbox.command(["run"]));
        sandbox.wait_serving();
        let slow = slow(&sandbox);
        terminal.hang_up();
        slow.join().assert_nothing_failed();
        terminal.wait(SOON);
        sandbox.wait_empty(SOON);
        sandbox.assert_nothing_left();
    }
}

/// A worker and its children inherit no variable, descriptor, signal mask or argument of the daemon.
#[test]
fn workers_and_their_children_inherit_nothing() {
    let mut sandbox = Sandbox::new("leaky");
    sandbox.set("APP_SECRET", "mine");
    sandbox.set("DAEMON_READY_TIMEOUT", "9s");
    let descriptor_limit = |process: &Process| process.descriptors().len();
    sandbox.verb(["start", "--set", "drain_timeout=9s", "--", "one", "--two"]).expect_code(0);
    let text = |path: &str| {
        let target = sandbox.target("http");
        Connection::open(&target).and_then(|mut it| it.get(path)).expect("a response").text()
    };
    let check = |text: &str, of_child: bool| {
        let lines = |kind: &str| {
            let kind = kind.to_owned();
            text.lines().filter_map(move |line| line.strip_prefix(&kind)).collect::<Vec<_>>()
        };
        let mask = |name: &str| {
            let value = lines(name).first().map(|mask| u64::from_str_radix(mask.trim(), 16));
            value.and_then(Result::ok).unwrap_or_else(|| panic!("no {name}:\n{text}"))
        };
        // Rust's start-up code ignores SIGPIPE. Signals 32 and 33 belong to the C library and cannot be
        // reset.
        let own = 1 << (13 - 1) | 1 << (32 - 1) | 1 << (33 - 1);
        assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !own), (0, 0), "{text}");
        let variables = lines("env ");
        assert!(variables.contains(&"APP_SECRET=mine"), "{text}");
        let private = ["UNBROKEN_", "NOTIFY_SOCKET", "LISTEN_"];
        let ours: Vec<_> = variables
            .iter()
            .filter(|variable| private.iter().any(|start| variable.starts_with(start)))
            .filter(|variable| !variable.starts_with("UNBROKEN_TEST_SANDBOX="))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
        if of_child {
            // The descriptor with which the shell read the directory is closed, and its link is empty.
            let fds = lines("fd ").into_iter().filter_map(|line| line.split_once(' '));
            let high: Vec<_> = fds
                .filter(|(fd, what)| fd.parse().is_ok_and(|fd: u32| fd > 2) && !what.is_empty())
                .collect();
            assert!(high.is_empty(), "{high:?}");
        }
    };
    let myself = text("/self");
    let arguments: Vec<_> = myself.lines().filter_map(|line| line.strip_prefix("arg ")).collect();
    assert_eq!(arguments[1..], ["one", "--two"], "{myself}");
    assert!(myself.contains("\ndir /\n"), "{myself}");
    check(&myself, false);
    check(&text("/child"), true);

    // No descriptors pile up over generations, after the first restart, which keeps the previous image open.
    sandbox.restart();
    let before = (descriptor_limit(&sandbox.supervisor()), descriptor_limit(&sandbox.worker()));
    for _ in 0..5 {
        sandbox.restart();
    }
    check(&text("/self"), false);
    check(&text("/child"), true);
    let now = || (descriptor_limit(&sandbox.supervisor()), descriptor_limit(&sandbox.worker()));
    eventually("as many descriptors as before", SOON, || before == now());
    sandbox.stop();
}

/// SIGUSR1 while a new worker starts does not abort the restart.
#[test]
fn usr1_does_not_abort_a_restart() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let supervisor = sandbox.supervisor();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                supervisor.signal(Signal::USR1);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let outputs: Vec<_> = (0..10).map(|_| sandbox.verb(["restart"])).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outputs.into_iter().for_each(|output| drop(output.expect_code(0)));
    });
    sandbox.stop();
}

/// A worker that has just been forked discards the signals that are meant for the supervisor.
#[test]
fn starting_worker_discards_signals_for_the_supervisor() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let supervisor = sandbox.supervisor();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for worker in supervisor.children() {
                    for signal in [Signal::USR1, Signal::HUP, Signal::INT, Signal::USR2] {
                        worker.signal(signal);
                    }
                }
            }
        });
        let outputs: Vec<_> = (0..5).map(|_| sandbox.verb(["restart"])).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outputs.into_iter().for_each(|output| drop(output.expect_code(0)));
    });
    sandbox.stop();
}

/// A daemon started by `nohup` survives the hangup of its terminal.
#[test]
fn nohup_outlives_its_terminal() {
    for fixture in ["http", "solo-http"] {
        let sandbox = Sandbox::new(fixture);
        let image = sandbox.image();
        let arguments = [image.as_os_str(), "run".as_ref()];
        let mut terminal = Terminal::spawn(&sandbox.command_of("nohup", arguments));
        sandbox.wait_serving();
        let pid = sandbox.status().pid;
        terminal.hang_up();
        std::thread::sleep(Duration::from_millis(500));
        let status = sandbox.status();
        assert_eq!((status.pid, status.state.as_str()), (pid, "running"));
        sandbox.stop();
    }
}

/// A daemon starts, serves and stops although nothing reads the pipe on its standard error.
#[test]
fn full_stderr_is_no_obstacle() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.unset("DAEMON_LOG");
        let (_reader, writer) = rustix::pipe::pipe().expect("a pipe");
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).expect("a flag");
        while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).expect("a flag");
        let mut command = sandbox.command(["run"]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(writer);
        let daemon = unbroken_tests::Child::spawn_as_is(&mut command);
        eventually("it serves", Duration::from_secs(10), || {
            let status = sandbox.spawn(["status", "--json"]);
            status.process().wait_gone(Duration::from_secs(2))
                && sandbox.try_status().is_some_and(|status| status.state == "running")
        });
        daemon.process().signal(Signal::TERM);
        drop(command);
        daemon.wait(SOON).expect_code(0);
    }
}
