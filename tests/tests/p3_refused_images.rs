//! P3: images that must not be run are refused with the reason, and the running worker is not affected.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use unbroken_tests::{Bad, Child, Sandbox, program};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Asserts that `start` fails with the reason and leaves nothing behind.
#[track_caller]
fn start_is_refused(sandbox: &Sandbox, exe: &Path, reason: &str) {
    let set = format!("exe={}", exe.display());
    let output = sandbox.verb(["start", "--set", &set]).expect_code(1);
    output.expect_text(&exe.display().to_string()).expect_text(reason);
    sandbox.assert_nothing_left();
}

/// Asserts that `restart` fails with the reason, that `status` warns of it, and that the worker is the same.
#[track_caller]
fn restart_is_refused(sandbox: &Sandbox, reason: &str) {
    let before = sandbox.status();
    let disk = before.on_disk.as_ref().and_then(|disk| disk.reason.clone());
    assert!(disk.as_ref().is_some_and(|text| text.contains(reason)), "{:?}", before.on_disk);
    let message = sandbox.restart_aborts().reason.expect("a reason");
    assert!(message.contains(reason), "`{reason}` not in `{message}`");
    let now = sandbox.status();
    assert_eq!(now.serving().pid, before.serving().pid);
    assert_eq!((now.pid, now.workers.len()), (before.pid, 1), "{now:?}");
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), before.generation);
}

#[test]
fn script_is_refused() {
    let sandbox = Sandbox::new("http");
    let script = sandbox.path("script");
    program::script(&script, "#!/bin/sh\n");
    start_is_refused(&sandbox, &script, "is a script");
    sandbox.start();
    sandbox.deploy_bad(Bad::Script);
    restart_is_refused(&sandbox, "is a script");
    sandbox.deploy("http");
    sandbox.stop();
}

#[test]
fn file_without_permission_is_refused() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    sandbox.deploy_bad(Bad::NotExecutable);
    restart_is_refused(&sandbox, "is not executable; `chmod +x` it");
    sandbox.deploy("http");
    sandbox.stop();
}

#[test]
fn image_on_a_noexec_mount_is_refused() {
    if !is_root() {
        unbroken_tests::skip("only root can mount");
        return;
    }
    let sandbox = Sandbox::new("http");
    let (dir, current) = (sandbox.path("noexec"), sandbox.path("current"));
    let reason = "is on a file system that is mounted noexec";
    let start = |exe: &Path| {
        let set = format!("exe={}", exe.display());
        let arguments = ["start", "--set", &set];
        let mut command =
            sandbox.on_noexec(dir.to_str().expect("a path"), sandbox.image(), arguments);
        Child::spawn(&mut command).wait(unbroken_tests::sandbox::PATIENCE)
    };
    let there = dir.join("app");
    let output = start(&there).expect_code(1);
    output.expect_text(&format!("the image {} {reason}", there.display()));
    sandbox.assert_nothing_left();

    let switch = |to: &Path| {
        symlink(to, sandbox.path("next")).expect("a link");
        fs::rename(sandbox.path("next"), &current).expect("the link switched");
    };
    switch(&sandbox.image());
    start(&current).expect_code(0);
    switch(&there);
    restart_is_refused(&sandbox, reason);
    switch(&sandbox.image());
    sandbox.restart();
    sandbox.stop();
}

/// An image that every user can write is refused by a supervisor that runs as root: it would let every user
/// run code as root.
#[test]
fn image_that_everybody_can_write_is_refused() {
    if !is_root() {
        unbroken_tests::skip("for a supervisor that is root");
        return;
    }
    let mut sandbox = Sandbox::new("http");
    let image = sandbox.image();
    let written = format!("is writable by everybody; run `chmod o-w {}`", image.display());
    mode(&image, 0o757);
    start_is_refused(&sandbox, &image, &written);
    mode(&image, 0o755);
    sandbox.start();
    mode(&image, 0o757);
    restart_is_refused(&sandbox, &written);
    mode(&image, 0o755);

    let replaced =
        format!("can be replaced by everybody; run `chmod o-w {}`", sandbox.dir().display());
    mode(sandbox.dir(), 0o777);
    sandbox.deploy("http-v2");
    restart_is_refused(&sandbox, &replaced);
    mode(sandbox.dir(), 0o1777);
    sandbox.restart();
    mode(sandbox.dir(), 0o700);
    sandbox.stop();
    // A runtime directory that every user can replace is refused as well, before the image is checked.
    sandbox.set("DAEMON_RUNTIME_DIR", sandbox.path("own/run").display().to_string());
    mode(sandbox.dir(), 0o777);
    start_is_refused(&sandbox, &image, &replaced);
    mode(sandbox.dir(), 0o700);
}

/// A supervisor that runs as root accepts an image of another user, as in a developer's container.
#[test]
fn image_of_another_user_is_accepted() {
    if !is_root() {
        unbroken_tests::skip("only root can give files away");
        return;
    }
    let sandbox = Sandbox::new("http");
    chown(sandbox.image(), Some(12_345), Some(12_345)).expect("an owner");
    mode(&sandbox.image(), 0o775);
    sandbox.start();
    sandbox.restart();
    sandbox.stop();
}

/// A supervisor without privileges accepts an image that every user can write.
#[test]
fn unprivileged_supervisor_accepts_a_writable_image() {
    let sandbox = Sandbox::new("http");
    mode(&sandbox.image(), 0o777);
    let start = ["start"];
    let mut command = match is_root() {
        false => sandbox.command(start),
        true => {
            chown(sandbox.dir(), Some(12_345), None).expect("an owner");
            let user = ["--reuid", "12345", "--regid", "12345", "--clear-groups"];
            let mut command = sandbox.command_of("setpriv", user);
            command.arg(sandbox.image()).args(start);
            command
        }
    };
    Child::spawn(&mut command).wait(unbroken_tests::sandbox::PATIENCE).expect_code(0);
    sandbox.restart();
    sandbox.stop();
}
