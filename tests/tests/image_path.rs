//! The path of the next image: that of the start, with its symbolic links, or another one that
//! `restart --exe` names.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use std::time::Duration;

use unbroken_tests::bed::fixture_path;
use unbroken_tests::{Bed, Child, Output, Report, eventually, program, skip};

const SOON: Duration = Duration::from_secs(60);

/// Creates a bed with the releases `r/1`, `r/2`, … and a link `current` to the first.
fn releases(fixtures: &[&str]) -> Bed {
    let bed = Bed::empty();
    for (at, fixture) in fixtures.iter().enumerate() {
        install(&bed, fixture, &format!("r/{}/app", at + 1));
    }
    symlink("r/1", bed.path("current")).expect("a link");
    bed
}

/// Copies a fixture to a path in the bed. A child process copies it, because the program cannot be executed
/// while any process has it open for writing.
fn install(bed: &Bed, fixture: &str, to: &str) -> PathBuf {
    let script = "mkdir -p \"$(dirname \"$2\")\" && cp --reflink=auto \"$1\" \"$2\"";
    let mut command = bed.command_of("sh", ["-c", script, "sh"]);
    command.arg(fixture_path(fixture)).arg(bed.path(to));
    Child::spawn(&mut command).wait(SOON).expect_code(0);
    bed.path(to)
}

fn switch(bed: &Bed, to: &str) {
    symlink(to, bed.path("next")).expect("a link");
    fs::rename(bed.path("next"), bed.path("current")).expect("the link replaced");
}

fn version(bed: &Bed) -> String {
    let answer = bed.get("/").expect("an answer").text();
    answer.trim().rsplit_once("version=").expect("a version").1.to_owned()
}

/// Runs a verb with the program at a path.
fn run(bed: &Bed, program: &Path, arguments: &[&str]) -> Output {
    let mut command = bed.command_of(program, arguments);
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
    let bed = releases(&["http", "http-v2"]);
    bed.shell("cd current && ./app start").expect_code(0);
    assert_eq!(bed.status().image.path, text(&bed.path("current/app")));
    assert_eq!(version(&bed), "1");
    switch(&bed, "r/2");
    let output = run(&bed, &bed.path("current/app"), &["restart"]).expect_code(0);
    assert!(!output.text().contains("--exe"), "it is what was asked for: {output}");
    assert_eq!(version(&bed), "2");
    let status = bed.status();
    assert_eq!(status.image.path, text(&bed.path("current/app")));
    assert_eq!(status.supervisor_image.expect("an image").path, text(&bed.path("current/app")));
    bed.stop();
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
        let bed = releases(&["http", "http-v2"]);
        bed.shell(&format!("pwd=\"{pwd}\"; cd r/1 && env PWD=\"$pwd\" ./app start")).expect_code(0);
        assert_eq!(bed.status().image.path, text(&bed.path(path)), "{pwd}");
        bed.stop();
    }
}

/// After `restart --exe` the new path is that of the daemon, for respawns, restarts and the supervisor. Such
/// paths are needed where files are never replaced.
#[test]
fn restart_exe_changes_the_path_for_good() {
    let mut bed = releases(&["http", "http-v2"]);
    bed.set("DAEMON_BACKOFF_MIN", "10ms");
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| bed.path(it));
    run(&bed, &first, &["start"]).expect_code(0);
    // The command runs from another file than the daemon. It names both paths, and what to do.
    let output = run(&bed, &second, &["restart"]).expect_code(0);
    let advice = format!("to start that one, use `restart --exe {}`", second.display());
    let said = format!(
        "the image to start is {}, not {}, which you ran",
        first.display(),
        second.display()
    );
    assert!(output.stderr.contains(&advice) && output.stderr.contains(&said), "{output}");
    assert_eq!(version(&bed), "1");

    let output = run(&bed, &second, &["restart", "--exe", "r/2/app"]).expect_code(0);
    assert!(!output.text().contains("another file"), "{output}");
    assert_eq!(version(&bed), "2");
    let here = |bed: &Bed| {
        let status = bed.status();
        assert_eq!(status.image.path, text(&second));
        assert_eq!(status.on_disk.expect("the image on disk").path, text(&second));
        assert_eq!(status.known_good.expect("an image").path, text(&second));
        // The supervisor has upgraded to it too.
        assert_eq!(status.supervisor_image.expect("an image").path, text(&second));
    };
    here(&bed);
    // A respawn, and a restart without the option.
    let worker = bed.worker();
    worker.kill();
    eventually("it serves again", SOON, || {
        bed.status().workers.iter().any(|it| it.pid != worker.pid() && it.state == "serving")
    });
    assert_eq!(version(&bed), "2");
    here(&bed);
    let output = run(&bed, &second, &["restart"]).expect_code(0);
    assert!(!output.text().contains("another file"), "{output}");
    assert_eq!(version(&bed), "2");
    here(&bed);
    bed.stop();
}

/// `restart --exe` refuses the same images as any restart, and the daemon keeps its old path.
#[test]
fn failed_restart_exe_keeps_the_old_path() {
    let bed = releases(&["http", "http-v2", "exits"]);
    let first = bed.path("r/1/app");
    run(&bed, &first, &["start"]).expect_code(0);
    let script = bed.path("script");
    program::script(&script, "#!/bin/sh\nexec sleep 1000\n");
    let foreign = install(&bed, "bare-http", "foreign");
    for (path, reason) in [
        (bed.path("none"), "No such file"),
        (bed.path("r"), "is not a regular file"),
        (script, "is a script"),
        (bed.path("r/3/app"), "exited with code 1"),
        (foreign, "did not reach its `#[daemon]` main"),
    ] {
        let exe = &text(&path);
        let output = run(&bed, &first, &["restart", "--json", "--exe", exe]).expect_code(1);
        let reason_said = report(&output).reason.unwrap_or_default();
        assert!(reason_said.contains(reason), "{exe}: {output}");
        assert_eq!(bed.status().on_disk.expect("the image on disk").path, text(&first));
    }
    let output = run(&bed, &first, &["restart", "--json"]).expect_code(0);
    assert_eq!(report(&output).result, "ok");
    assert_eq!(version(&bed), "1");
    bed.stop();
}

/// `restart --exe` refuses a file that others can write, if the supervisor runs as root.
#[test]
fn restart_exe_refuses_a_file_that_others_can_write() {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return;
    }
    let bed = releases(&["http", "http-v2"]);
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| bed.path(it));
    run(&bed, &first, &["start"]).expect_code(0);
    fs::set_permissions(&second, fs::Permissions::from_mode(0o757)).expect("a mode");
    let exe = &text(&second);
    let output = run(&bed, &first, &["restart", "--exe", exe]).expect_code(1);
    assert!(output.text().contains("is writable by everybody"), "{output}");
    assert_eq!(version(&bed), "1");
    bed.stop();
}

/// If the daemon's image has been removed with its release, the error of `restart` names the command that
/// works.
#[test]
fn removed_image_error_advises_restart_exe() {
    let bed = releases(&["http", "http-v2"]);
    let [first, second] = ["r/1/app", "r/2/app"].map(|it| bed.path(it));
    run(&bed, &first, &["start"]).expect_code(0);
    fs::remove_file(&first).expect("the image removed");
    let output = run(&bed, &second, &["restart"]).expect_code(1);
    let second_path = second.display();
    let advice = format!("to start {second_path}, use `restart --exe {second_path}`");
    assert!(output.text().contains(&advice), "{output}");
    run(&bed, &second, &["restart", "--exe", &text(&second)]).expect_code(0);
    assert_eq!(version(&bed), "2");
    bed.stop();
}

/// A solo daemon refuses `restart --exe`, as any restart.
#[test]
fn solo_daemon_refuses_restart_exe() {
    let bed = Bed::new("hello-solo");
    bed.start();
    let image = bed.image();
    let exe = &text(&image);
    let output = run(&bed, &image, &["restart", "--exe", exe]).expect_code(1);
    assert!(output.text().contains("runs without a supervisor"), "{output}");
    bed.stop();
}
