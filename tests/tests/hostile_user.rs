//! Another user of the host puts files and links at the paths of the daemon's files, and connects to its
//! control socket.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Uid, geteuid};
use unbroken_tests::{Control, Load, Sandbox, skip};

const SOON: Duration = Duration::from_secs(20);

/// A user id that no account has.
const STRANGER: u32 = 4_000_000;

/// The contents of a file that a planted link leads to, and that must not change.
const PRECIOUS: &str = "precious\n";

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Creates a sandbox with a directory like `/tmp`, which every user can write, and with a precious file.
fn sandbox() -> Option<(Sandbox, PathBuf, PathBuf)> {
    if !geteuid().is_root() {
        skip("another user needs root");
        return None;
    }
    let sandbox = Sandbox::new("http");
    let (shared, precious) = (sandbox.path("shared"), sandbox.path("precious"));
    fs::create_dir(&shared).expect("a directory");
    mode(&shared, 0o1777);
    fs::write(&precious, PRECIOUS).expect("a file");
    Some((sandbox, shared, precious))
}

/// The kind of file that the other user puts at a path.
#[derive(Debug, Clone, Copy)]
enum Planted {
    Link,
    HardLink,
    Fifo,
    File,
    Directory,
    Open,
}

fn plant(what: Planted, path: &Path, precious: &Path) {
    match what {
        Planted::Link => symlink(precious, path).expect("a link"),
        Planted::HardLink => fs::hard_link(precious, path).expect("a link"),
        Planted::Fifo => mkfifoat(CWD, path, Mode::from_raw_mode(0o666)).expect("a fifo"),
        Planted::File => fs::write(path, "mine\n").expect("a file"),
        Planted::Directory | Planted::Open => fs::create_dir(path).expect("a directory"),
    }
    match what {
        Planted::Link => {
            std::os::unix::fs::lchown(path, Some(STRANGER), Some(STRANGER)).expect("root");
        }
        Planted::HardLink => {}
        Planted::Open => mode(path, 0o777),
        _ => chown(path, Some(STRANGER), Some(STRANGER)).expect("root"),
    }
}

/// Asserts that `start` fails with the sentence, and changes no file.
#[track_caller]
fn refused(sandbox: &Sandbox, path: &Path, what: Planted, sentence: &str, precious: &Path) {
    plant(what, path, precious);
    let output = sandbox.spawn(["start"]).wait(SOON).expect_code(1);
    assert!(output.stderr.contains(sentence), "{what:?}: {output}");
    assert!(output.stderr.contains(&path.display().to_string()), "{what:?}: {output}");
    assert_eq!(fs::read_to_string(precious).expect("a file"), PRECIOUS, "{what:?}");
    assert!(fs::symlink_metadata(path).is_ok(), "{what:?} was removed");
    assert!(sandbox.processes().is_empty(), "{what:?}");
    if path.is_dir() && !path.is_symlink() {
        assert_eq!(fs::read_dir(path).expect("a directory").count(), 0);
        fs::remove_dir(path).expect("a directory");
    } else {
        fs::remove_file(path).expect("a file");
    }
}

#[test]
fn planted_runtime_directory_is_refused() {
    let Some((mut sandbox, shared, precious)) = sandbox() else { return };
    let dir = shared.join("app-0");
    sandbox.set("DAEMON_RUNTIME_DIR", dir.display().to_string());
    sandbox.set("DAEMON_PIDFILE", dir.join("app.pid").display().to_string());
    let theirs = sandbox.path("theirs");
    fs::create_dir(&theirs).expect("a directory");
    symlink(&theirs, &dir).expect("a link");
    std::os::unix::fs::lchown(&dir, Some(STRANGER), Some(STRANGER)).expect("root");
    let output = sandbox.spawn(["start"]).wait(SOON).expect_code(1);
    output.expect_text("is not a directory; set `runtime_dir`");
    assert_eq!(fs::read_dir(&theirs).expect("a directory").count(), 0);
    fs::remove_file(&dir).expect("a link");

    // A link that root owns is followed, and the directory that it leads to is checked.
    symlink(&theirs, &dir).expect("a link");
    mode(&theirs, 0o777);
    let output = sandbox.spawn(["start"]).wait(SOON).expect_code(1);
    output.expect_text("is writable by others");
    mode(&theirs, 0o700);
    sandbox.verb(["start"]).expect_code(0);
    sandbox.verb(["stop"]).expect_code(0);
    fs::remove_file(&dir).expect("a link");

    refused(&sandbox, &dir, Planted::Link, "is not a directory; set `runtime_dir`", &precious);
    refused(&sandbox, &dir, Planted::Directory, "belongs to user 4000000", &precious);
    refused(&sandbox, &dir, Planted::Open, "is writable by others", &precious);

    // A directory of root, in a parent that every user can write, so it can be replaced.
    mode(&shared, 0o777);
    let output = sandbox.spawn(["start"]).wait(SOON).expect_code(1);
    output.expect_text("can be replaced by anyone");
    mode(&shared, 0o1777);
    sandbox.verb(["start"]).expect_code(0);
    sandbox.verb(["stop"]).expect_code(0);
}

#[test]
fn planted_pidfile_is_refused() {
    let Some((mut sandbox, shared, precious)) = sandbox() else { return };
    let pidfile = shared.join("app.pid");
    sandbox.set("DAEMON_PIDFILE", pidfile.display().to_string());
    for (what, sentence) in [
        (Planted::Link, "is a symbolic link"),
        (Planted::HardLink, "has more than one hard link"),
        (Planted::Fifo, "is not a regular file"),
        (Planted::File, "belongs to user 4000000"),
        (Planted::Directory, "is a directory"),
    ] {
        refused(&sandbox, &pidfile, what, sentence, &precious);
    }
}

#[test]
fn planted_log_is_refused() {
    let Some((mut sandbox, shared, precious)) = sandbox() else { return };
    let log = shared.join("app.log");
    sandbox.set("DAEMON_LOG", log.display().to_string());
    for (what, sentence) in [
        (Planted::Link, "in a directory that others can write to: it is a symbolic link"),
        (
            Planted::HardLink,
            "in a directory that others can write to: it has more than one hard link",
        ),
        // A fifo without a reader: opening it for writing would block the supervisor.
        (Planted::Fifo, "in a directory that others can write to: it is not a regular file"),
        (Planted::File, "in a directory that others can write to: it belongs to user 4000000"),
    ] {
        refused(&sandbox, &log, what, sentence, &precious);
    }
    sandbox.verb(["start"]).expect_code(0);
    // Root renames the log, and the other user puts a link in its place before the supervisor reopens it.
    // The supervisor keeps the old file.
    let old = shared.join("app.log.1");
    fs::rename(&log, &old).expect("a rotation");
    plant(Planted::Link, &log, &precious);
    sandbox.supervisor().signal(unbroken_tests::Signal::USR1);
    let kept = || {
        fs::read_to_string(&old).is_ok_and(|text| text.contains("still writing to the old file"))
    };
    unbroken_tests::eventually("still writing to the old file", SOON, kept);
    assert_eq!(fs::read_to_string(&precious).expect("a file"), PRECIOUS);
    sandbox.verb(["stop"]).expect_code(0);
}

/// If the log is in a directory of another user, such as the user of the workers, a supervisor that runs as
/// root follows no link there. It accepts a file of that user, which a rotation may have created.
#[test]
fn log_in_a_directory_of_another_user_follows_no_link() {
    let Some((mut sandbox, _, precious)) = sandbox() else { return };
    let theirs = sandbox.path("theirs");
    fs::create_dir(&theirs).expect("a directory");
    chown(&theirs, Some(STRANGER), Some(STRANGER)).expect("root");
    let log = theirs.join("app.log");
    sandbox.set("DAEMON_LOG", log.display().to_string());
    for (what, sentence) in [
        (Planted::Link, "in a directory that others can write to: it is a symbolic link"),
        (
            Planted::HardLink,
            "in a directory that others can write to: it has more than one hard link",
        ),
        (Planted::Fifo, "in a directory that others can write to: it is not a regular file"),
    ] {
        refused(&sandbox, &log, what, sentence, &precious);
    }
    plant(Planted::File, &log, &precious);
    sandbox.verb(["start"]).expect_code(0);
    sandbox.verb(["stop"]).expect_code(0);
    let text = fs::read_to_string(&log).expect("a log");
    assert!(text.starts_with("mine\n") && text.contains("generation 1 serves"), "{text}");
}

/// Calls `act` as the other user, on a thread of its own: the kernel has user ids per thread.
fn as_stranger<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let uid = Uid::from_raw(STRANGER);
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root");
        act()
    });
    thread.join().expect("a thread")
}

/// Another user cannot reach the control socket, and is refused by the daemon where the permissions of the
/// socket are wrong.
#[test]
fn control_socket_refuses_other_users() {
    let Some((sandbox, ..)) = sandbox() else { return };
    let target = sandbox.start().target("http");
    let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
    let load = Load::on(target).keep_alive(4).start();
    let socket = sandbox.socket();
    let denied =
        as_stranger(move || Control::open(&socket).expect_err("a closed directory").kind());
    assert_eq!(denied, std::io::ErrorKind::PermissionDenied);

    for (path, bits) in [
        (sandbox.dir().to_owned(), 0o755),
        (sandbox.runtime_dir(), 0o755),
        (sandbox.socket(), 0o666),
    ] {
        mode(&path, bits);
    }
    for request in [
        r#"{"type":"stop"}"#,
        r#"{"type":"restart"}"#,
        r#"{"type":"status"}"#,
        r#"{"type":"hello","protocol":{"min":1,"max":1},"release":"9"}"#,
        r#"{"type":"orphan","protocol":{"min":1,"max":1},"release":"9","generation":9,"listeners":[]}"#,
    ] {
        let socket = sandbox.socket();
        let reply = as_stranger(move || {
            let control = Control::open(&socket).expect("an open directory");
            // The daemon may refuse the client before the request is sent.
            let _ = control.send(request);
            String::from_utf8_lossy(&control.receive(SOON).expect("an answer")).into_owned()
        });
        assert!(reply.contains("this daemon belongs to user 0"), "{request}: {reply}");
    }
    // Many clients at once; their requests are not read.
    let descriptors = supervisor.descriptors_at_rest();
    let socket = sandbox.socket();
    as_stranger(move || {
        for _ in 0..2_000 {
            if let Ok(control) = Control::open(&socket) {
                let _ = control.send("x".repeat(60_000));
            }
        }
    });
    assert_eq!(
        (sandbox.status().pid, sandbox.status().serving().pid),
        (supervisor.pid(), worker.pid())
    );
    unbroken_tests::eventually("its descriptors are closed", SOON, || {
        supervisor.descriptors().len() <= descriptors
    });
    sandbox.restart().ledger().assert_balanced();
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    sandbox.stop();
}
