//! The path of the next image: that of the start, with its symbolic links, or another one that
//! `restart --exe` names.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use std::time::Duration;

use unbroken_tests::sandbox::fixture_path;
use unbroken_tests::{Child, Output, Report, Sandbox, eventually, program, skip};

const SOON: Duration = Duration::from_secs(60);

/// Creates a sandbox with the releases `r/1`, `r/2`, … and a link `current` to the first.
fn releases(fixtures: &[&str]) -> Sandbox {
    let sandbox = Sandbox::empty();
    for (at, fixture) in fixtures.iter().enumerate() {
        install(&sandbox, fixture, &format!("r/{}/app", at + 1));
    }
    symlink("r/1", sandbox.path("current")).expect("a link");
    sandbox
}

/// Copies a fixture to a path in the sandbox. A child process copies it, because the program cannot be executed
/// while any process has it open for writing.
fn install(sandbox: &Sandbox, fixture: &str, to: &str) -> PathBuf {
    let script = "mkdir -p \"$(dirname \"$2\")\" && cp --reflink=auto \"$1\" \"$2\"";
    let mut command = sandbox.command_of("sh", ["-c", script, "sh"]);
    command.arg(fixture_path(fixture)).arg(sandbox.path(to));
    Child::spawn(&mut command).wait(SOON).expect_code(0);
    sandbox.path(to)
}

fn switch(sandbox: &Sandbox, to: &str) {
    symlink(to, sandbox.path("next")).expect("a link");
    fs::rename(sandbox.path("next"), sandbox.path("current")).expect("the link replaced");
}

fn version(sandbox: &Sandbox) -> String {
    let answer = sandbox.get("/").expect("an answer").text();
    answer.trim().rsplit_once("version=").expect("a version").1.to_owned()
}

/// Runs a verb with the program at a path.
fn run(sandbox: &Sandbox, program: &Path, arguments: &[&str]) -> Output {
    let mut command = sandbox.command_of(program, arguments);
    Child::spawn(&mut command).wait(SOON)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn report(output: &Output) -> Report {
    serde_json::from_str(&output.stdout).expect("a report")
}

/// If the directory of the start is a symbolic link, switching the link deploys another image.
#[test]
fn switched_link_deploys_another_image() {
    let sandbox = releases(&["http", "http-v2"]);
    sandbox.shell("cd current && ./app start").expect_code(0);
    assert_eq!(sandbox.status().image.path, text(&sandbox.path("current/app")));
    assert_eq!(version(&sandbox), "1");
    switch(&sandbox, "r/2");
    let output = run(&sandbox, &sandbox.path("current/app"), &["restart"]).expect_code(0);
    assert!(!output.text().contains("--exe"), "it is what was asked for: {output}");
    assert_eq!(version(&sandbox), "2");
    let status = sandbox.status();
    assert_eq!(status.image.path, text(&sandbox.path("current/app")));
    assert_eq!(status.supervisor_image.expect("an image").path, text(&sandbox.path("current/app")));
    sandbox.stop();
}

/// The daemon uses `PWD` for its path only if it names the starting directory.
#[test]
fn pwd_of_another_directory_is_ignored() {
    for (pwd, path) in [
        ("$PWD/r/2", "r/1/app"),
        ("r/1", "r/1/app"),
        ("$PWD/nowhere", "r/1/app"),
        ("$PWD/r/2/../1", "r/1/app"),
        ("", "r/1/app"),
        ("$PWD/current", "current/app"),
    ] {
        let sandbox = releases(&["http", "http-v2"]);
        sandbox
            .shell(&format!("pwd=\"{pwd}\"; cd r/1 && env PWD=\"$pwd\" ./app start"))
            .expect_code(0);
        assert_eq!(sandbox.status().image.path, text(&sandbox.path(path)), "{pwd}");
        sandbox.stop();
    }
}

/// After `restart --exe` the new path is that of the daemon, for respawns, restarts and the supervisor. Such
/// paths are needed where files are never replaced.
#[test]
fn restart_exe_changes_the_path_for_good() {
    let mut sandbox = releases(&["http", "http-v2"]);
    sandbox.set("DAEMON_BACKOFF_MIN", "10ms");
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| sandbox.path(it));
    run(&sandbox, &first, &["start"]).expect_code(0);
    // The command runs from another file than the daemon. It names both paths, and what to do.
    let output = run(&sandbox, &second, &["restart"]).expect_code(0);
    let advice = format!("to start that one, use `restart --exe {}`", second.display());
    let expected = format!(
        "the image to start is {}, not {}, which you ran",
        first.display(),
        second.display()
    );
    assert!(output.stderr.contains(&advice) && output.stderr.contains(&expected), "{output}");
    assert_eq!(version(&sandbox), "1");

    let output = run(&sandbox, &second, &["restart", "--exe", "r/2/app"]).expect_code(0);
    assert!(!output.text().contains("another file"), "{output}");
    assert_eq!(version(&sandbox), "2");
    let here = |sandbox: &Sandbox| {
        let status = sandbox.status();
        assert_eq!(status.image.path, text(&second));
        assert_eq!(status.on_disk.expect("the image on disk").path, text(&second));
        assert_eq!(status.known_good.expect("an image").path, text(&second));
        // The supervisor has upgraded to it too.
        assert_eq!(status.supervisor_image.expect("an image").path, text(&second));
    };
    here(&sandbox);
    // A respawn, and a restart without the option.
    let worker = sandbox.worker();
    worker.kill();
    eventually("it serves again", SOON, || {
        sandbox.status().workers.iter().any(|it| it.pid != worker.pid() && it.state == "serving")
    });
    assert_eq!(version(&sandbox), "2");
    here(&sandbox);
    let output = run(&sandbox, &second, &["restart"]).expect_code(0);
    assert!(!output.text().contains("another file"), "{output}");
    assert_eq!(version(&sandbox), "2");
    here(&sandbox);
    sandbox.stop();
}

/// `restart --exe` refuses the same images as any restart, and the daemon keeps its old path.
#[test]
fn failed_restart_exe_keeps_the_old_path() {
    let sandbox = releases(&["http", "http-v2", "exits"]);
    let first = sandbox.path("r/1/app");
    run(&sandbox, &first, &["start"]).expect_code(0);
    let script = sandbox.path("script");
    program::script(&script, "#!/bin/sh\nexec sleep 1000\n");
    let foreign = install(&sandbox, "bare-http", "foreign");
    for (path, reason) in [
        (sandbox.path("none"), "No such file"),
        (sandbox.path("r"), "is not a regular file"),
        (script, "is a script"),
        (sandbox.path("r/3/app"), "exited with code 1"),
        (foreign, "did not reach its `#[daemon]` main"),
    ] {
        let exe = &text(&path);
        let output = run(&sandbox, &first, &["restart", "--json", "--exe", exe]).expect_code(1);
        let stated_reason = report(&output).reason.unwrap_or_default();
        assert!(stated_reason.contains(reason), "{exe}: {output}");
        assert_eq!(sandbox.status().on_disk.expect("the image on disk").path, text(&first));
    }
    let output = run(&sandbox, &first, &["restart", "--json"]).expect_code(0);
    assert_eq!(report(&output).result, "ok");
    assert_eq!(version(&sandbox), "1");
    sandbox.stop();
}

/// `restart --exe` refuses a file that others can write, if the supervisor runs as root.
#[test]
fn restart_exe_refuses_a_file_that_others_can_write() {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return;
    }
    let sandbox = releases(&["http", "http-v2"]);
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| sandbox.path(it));
    run(&sandbox, &first, &["start"]).expect_code(0);
    fs::set_permissions(&second, fs::Permissions::from_mode(0o757)).expect("a mode");
    let exe = &text(&second);
    let output = run(&sandbox, &first, &["restart", "--exe", exe]).expect_code(1);
    assert!(output.text().contains("is writable by everybody"), "{output}");
    assert_eq!(version(&sandbox), "1");
    sandbox.stop();
}

/// If the daemon's image has been removed with its release, the error of `restart` names the command that
/// works.
#[test]
fn removed_image_error_advises_restart_exe() {
    let sandbox = releases(&["http", "http-v2"]);
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| sandbox.path(it));
    run(&sandbox, &first, &["start"]).expect_code(0);
    fs::remove_file(&first).expect("the image removed");
    let output = run(&sandbox, &second, &["restart"]).expect_code(1);
    let second_path = second.display();
    let advice = format!("to start {second_path}, use `restart --exe {second_path}`");
    assert!(output.text().contains(&advice), "{output}");
    run(&sandbox, &second, &["restart", "--exe", &text(&second)]).expect_code(0);
    assert_eq!(version(&sandbox), "2");
    sandbox.stop();
}

/// A solo daemon refuses `restart --exe`, as any restart.
#[test]
fn solo_daemon_refuses_restart_exe() {
    let sandbox = Sandbox::new("hello-solo");
    sandbox.start();
    let image = sandbox.image();
    let exe = &text(&image);
    let output = run(&sandbox, &image, &["restart", "--exe", exe]).expect_code(1);
    assert!(output.text().contains("runs without a supervisor"), "{output}");
    sandbox.stop();
}
