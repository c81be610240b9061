//! The harness itself: it keeps hold of every process that it starts, and ends them all.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use rustix::process::geteuid;
use unbroken_tests::{Bad, Child, Load, Process, Sandbox, Signal, Terminal};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn output_and_exit_code_are_captured() {
    let sandbox = Sandbox::empty();
    let output = sandbox.shell("echo out; echo err >&2; exit 3");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(output.expect_code(3).code(), 3);
    assert_eq!(sandbox.shell("kill -9 $$").code(), 137);
}

#[test]
#[should_panic(expected = "did not end within")]
fn hanging_child_is_killed() {
    let sandbox = Sandbox::empty();
    let child = Child::spawn(&mut sandbox.command_of("sleep", ["1000"]));
    child.wait(Duration::from_millis(100));
}

#[test]
#[should_panic(expected = "somebody keeps the output open")]
fn output_kept_open_is_noticed() {
    Sandbox::empty().shell("sleep 1000 & exit 0");
}

#[test]
fn a_panic_leaves_no_process() {
    let mut left = None;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let sandbox = Sandbox::empty();
        sandbox.shell("setsid sleep 1000 > /dev/null 2>&1 & exit 0");
        left = sandbox.processes().pop();
        panic!("of the test");
    }));
    assert!(panicked.is_err());
    assert!(!left.expect("a process").is_alive());
}

#[test]
fn only_own_processes_are_killed() {
    let (one, other) = (Sandbox::empty(), Sandbox::empty());
    for sandbox in [&one, &other] {
        sandbox.shell("setsid sleep 1000 > /dev/null 2>&1 & exit 0");
    }
    assert_eq!(one.processes().len(), 1);
    one.kill_all();
    assert_eq!((one.processes().len(), other.processes().len()), (0, 1));
    one.assert_nothing_left();
}

#[test]
fn process_reads_proc() {
    let sandbox = Sandbox::empty();
    let child = Child::spawn(&mut sandbox.command_of("sh", ["-c", "sleep 1000 & wait; exit 7"]));
    let process = child.process();
    unbroken_tests::eventually("a child", SOON, || {
        process.children().iter().any(|child| child.arguments() == ["sleep", "1000"])
    });
    assert!(process.is_alive() && process.threads() == 1);
    assert_eq!(process.parent(), Some(std::process::id()));
    unbroken_tests::eventually("it sleeps", SOON, || process.state() == Some('S'));
    let numbers: Vec<u32> = process.descriptors().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers[..3], [0, 1, 2]);
    assert!(process.private_memory().is_some_and(|bytes| bytes > 4096));
    assert!(process.environment().iter().any(|variable| variable.starts_with("PATH=")));
    let sleep = process.children().pop().expect("a child");
    sleep.signal(Signal::TERM);
    assert!(sleep.wait_gone(SOON));
    child.wait(SOON).expect_code(7);
    assert!(Process::open(sleep.pid()).is_none());
}

#[test]
fn bad_images_cannot_be_executed() {
    let sandbox = Sandbox::new("bare-http");
    let good = sandbox.image().metadata().expect("an image").len();
    sandbox.deploy_bad(Bad::WrongArchitecture);
    assert_eq!(sandbox.image().metadata().expect("an image").len(), good);
    // ENOEXEC. A shell would then try to run the file as a script; exec does not.
    let error = sandbox.command([""; 0]).spawn().expect_err("not executable");
    assert_eq!(error.raw_os_error(), Some(8), "{error}");
    for bad in [Bad::NotExecutable, Bad::Empty, Bad::Truncated, Bad::Directory, Bad::Missing] {
        sandbox.deploy("bare-http");
        sandbox.deploy_bad(bad);
        let spawned = sandbox.command([""; 0]).spawn().map(|mut child| child.kill());
        // A truncated binary may be killed by the kernel only after its exec has succeeded.
        assert!(spawned.is_err() || bad == Bad::Truncated, "{bad:?}");
        if bad == Bad::Directory {
            std::fs::remove_dir(sandbox.image()).expect("a directory");
        }
    }
}

#[test]
fn load_names_the_process_that_answered() {
    let sandbox = Sandbox::new("bare-http");
    let child = sandbox.spawn([""; 0]);
    child.wait_for_stdout("\n", SOON);
    let target: unbroken_tests::http::Target = child.stdout().trim().parse().expect("an address");
    let load = Load::on(target).keep_alive(4).start();
    load.wait_for(100);
    let ledger = load.stop();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.seen[0].pid, u64::from(child.pid()));
    child.process().kill();
}

#[test]
fn terminal_is_the_controlling_terminal() {
    let sandbox = Sandbox::empty();
    let script = "trap 'echo interrupted; exit 4' INT; \
                  test -t 0 && test -t 1 && tty && : </dev/tty && echo here; while :; do sleep 0.05; done";
    let terminal = Terminal::spawn(&sandbox.command_of("sh", ["-c", script]));
    terminal.wait_for("here", SOON);
    terminal.keys("\x03");
    terminal.wait(SOON).expect_code(4).expect_text("/dev/pts/").expect_text("interrupted");
}

#[test]
fn hang_up_sends_sighup() {
    let sandbox = Sandbox::empty();
    let script = "trap 'echo hup >> hup; exit 0' HUP; echo here; while :; do sleep 0.05; done";
    let mut terminal = Terminal::spawn(&sandbox.command_of("sh", ["-c", script]));
    terminal.wait_for("here", SOON);
    terminal.hang_up();
    terminal.wait(SOON).expect_code(0);
    assert!(sandbox.path("hup").exists());
}

#[test]
fn waiting_is_bounded() {
    let begun = Instant::now();
    let waited = std::panic::catch_unwind(|| {
        unbroken_tests::eventually("never", Duration::from_millis(50), || false);
    });
    assert!(waited.is_err() && begun.elapsed() >= Duration::from_millis(50));
}

#[test]
fn full_disk_has_no_space() {
    if !geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let sandbox = Sandbox::empty();
    std::fs::create_dir(sandbox.path("full")).expect("a directory");
    let output =
        Child::spawn(&mut sandbox.on_full_disk("full", "sh", ["-c", "echo | dd of=full/a"]));
    output.wait(SOON).expect_code(1).expect_text("No space left");
    assert!(std::fs::read_dir(sandbox.path("full")).expect("a directory").next().is_none());
}
