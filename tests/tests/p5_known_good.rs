//! P5: `status` shows the image that runs, the known-good image, and the file on disk.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use unbroken_tests::report::{Image, OnDisk};
use unbroken_tests::{Bad, Process, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

const DIFFERS: &str = "the image on disk differs from the running one; `restart` would switch to";

fn known_good(sandbox: &Sandbox) -> Image {
    sandbox.status().known_good.expect("an image that was confirmed")
}

fn on_disk(sandbox: &Sandbox) -> OnDisk {
    sandbox.status().on_disk.expect("something that runs")
}

/// Asserts that the text of `status` has a line with this key and value.
#[track_caller]
fn says(sandbox: &Sandbox, key: &str, text: &str) {
    let output = sandbox.verb(["status"]).expect_code(0);
    let found = output.stdout.lines().any(|line| {
        line.trim_start().strip_prefix(key).is_some_and(|value| value.trim().starts_with(text))
    });
    assert!(found, "no `{key}` with `{text}`\n{output}");
}

#[track_caller]
fn is_silent_of(sandbox: &Sandbox, text: &str) {
    let output = sandbox.verb(["status"]).expect_code(0);
    assert!(!output.stdout.contains(text), "`{text}`\n{output}");
}

#[test]
fn status_shows_the_image_after_a_start() {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    let image = &status.image;
    assert_eq!(image.path, sandbox.image().display().to_string());
    assert_eq!(image.generation, Some(1));
    let meta = sandbox.image().metadata().expect("an image");
    assert_eq!(image.size, Some(meta.len()));
    let since = image.since.expect("a time");
    assert!(since as f64 >= status.since && since as f64 <= status.since + 20.0, "{status:?}");
    let good = known_good(&sandbox);
    assert!(good.since >= image.since, "{status:?}");
    assert_eq!(Image { since: image.since, ..good }, *image);
    assert_eq!(on_disk(&sandbox).state, "same");
    let build = match &image.build_id {
        Some(id) => format!("{}, build id {}, since 20", image.path, &id[..12]),
        None => format!("{}, {} bytes, written 20", image.path, meta.len()),
    };
    says(&sandbox, "image", &build);
    says(&sandbox, "known-good", "the same, confirmed 20");
    is_silent_of(&sandbox, "on disk");
    sandbox.stop();
}

/// `status` shows for any file at the image's path what a restart would do with it.
#[test]
fn status_shows_the_file_on_disk() {
    let sandbox = Sandbox::new("http");
    let image = sandbox.start().image;

    sandbox.deploy("http");
    let disk = on_disk(&sandbox);
    if image.build_id.is_some() {
        assert_eq!(disk.state, "same-build", "{disk:?}");
        says(&sandbox, "on disk", "a different file of the same build");
    } else {
        assert_eq!(disk.state, "other", "{disk:?}");
    }

    sandbox.deploy("http-v2");
    let disk = on_disk(&sandbox);
    assert_eq!((disk.state.as_str(), disk.path), ("other", image.path.clone()));
    assert!(disk.build_id.is_none() || disk.build_id != image.build_id);
    says(&sandbox, "on disk", DIFFERS);
    assert_eq!(sandbox.status().image, image, "what runs is what ran");

    sandbox.deploy_bad(Bad::Missing);
    assert_eq!(on_disk(&sandbox).state, "missing");
    says(&sandbox, "on disk", "the image on disk is missing; `restart` would fail until /");
    for (bad, reason) in [(Bad::NotExecutable, "is not executable"), (Bad::Script, "is a script")] {
        sandbox.deploy_bad(bad);
        let disk = on_disk(&sandbox);
        assert_eq!(disk.state, "unusable");
        assert!(disk.reason.as_ref().is_some_and(|text| text.contains(reason)), "{disk:?}");
        says(&sandbox, "on disk", &format!("`restart` would fail: the image {}", image.path));
    }

    sandbox.deploy("http-v2");
    sandbox.restart();
    let status = sandbox.status();
    assert_eq!(status.image.generation, Some(2));
    assert!(status.image.build_id.is_none() || status.image.build_id != image.build_id);
    assert_eq!(on_disk(&sandbox).state, "same");
    sandbox.stop();
}

/// Images in a directory, and a symbolic link to one of them at the image's path.
struct Releases<'a>(&'a Sandbox);

impl Releases<'_> {
    fn new<'a>(sandbox: &'a Sandbox, fixtures: &[&str]) -> Releases<'a> {
        let releases = Releases(sandbox);
        fs::create_dir(sandbox.path("releases")).expect("a directory");
        for (number, fixture) in (1..).zip(fixtures) {
            sandbox.deploy(fixture);
            fs::rename(sandbox.image(), releases.path(number)).expect("a release");
        }
        releases.switch(1);
        releases
    }

    fn path(&self, number: u32) -> PathBuf {
        self.0.path("releases").join(number.to_string())
    }

    fn switch(&self, number: u32) {
        symlink(self.path(number), self.0.path("next")).expect("a link");
        fs::rename(self.0.path("next"), self.0.image()).expect("the link switched");
    }
}

/// A switched link at the image's path counts as another image on disk.
#[test]
fn status_follows_a_switched_link() {
    let sandbox = Sandbox::empty();
    let releases = Releases::new(&sandbox, &["http", "http-v2"]);
    let image = sandbox.start().image;
    assert_eq!(image.path, sandbox.image().display().to_string());
    for (number, state) in [(1, "same"), (2, "other"), (3, "missing"), (1, "same"), (2, "other")] {
        releases.switch(number);
        assert_eq!(on_disk(&sandbox).state, state, "{number}");
    }
    sandbox.restart();
    assert_eq!(on_disk(&sandbox).state, "same");
    sandbox.stop();
}

/// In the confirm window the known-good image is the old one.
#[test]
fn known_good_is_the_old_image_in_the_confirm_window() {
    let mut sandbox = Sandbox::new("confirm-modes");
    sandbox.set("DAEMON_CONFIRM_WINDOW", "60s");
    let first = sandbox.start();
    let committed = |generation| {
        eventually("it is committed", SOON, || sandbox.status().generation == Some(generation));
    };

    let restart = sandbox.spawn(["restart", "--json"]);
    committed(2);
    let status = sandbox.status();
    assert_eq!(status.image.generation, Some(2));
    assert_eq!(known_good(&sandbox).generation, Some(1));
    assert!(status.image.since >= first.image.since);
    says(&sandbox, "known-good", &format!("{}, ", first.image.path));

    // After the abort the old image has its former time again.
    Process::open(status.serving().pid).expect("a worker").kill();
    restart.wait(SOON).expect_code(1);
    let status = sandbox.status();
    assert_eq!(status.image, first.image);
    assert_eq!(status.known_good, first.known_good);
    sandbox.stop();
}

/// Crashes the worker and waits until another one serves, of this generation.
#[track_caller]
fn crash(sandbox: &Sandbox, generation: u64) {
    let old = sandbox.worker();
    // The connection ends with the worker.
    let _ = sandbox.get("/abort");
    eventually("another worker serves", SOON, || {
        let status = sandbox.status();
        let serves = |worker: &unbroken_tests::report::Worker| {
            worker.state == "serving" && worker.pid != old.pid()
        };
        status.generation == Some(generation) && status.workers.iter().any(serves)
    });
}

/// After a rollback the old image runs and is the known-good one, and the file on disk differs.
#[test]
fn known_good_is_the_old_image_after_a_rollback() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    let first = sandbox.start().image;
    sandbox.deploy("http-v2");
    sandbox.restart();
    crash(&sandbox, 2);
    crash(&sandbox, 3);
    let image = sandbox.status().image;
    assert_eq!(
        (image.generation, &image.build_id, image.size),
        (Some(3), &first.build_id, first.size)
    );
    assert_eq!(known_good(&sandbox).generation, Some(3));
    assert_eq!(on_disk(&sandbox).state, "other");
    says(&sandbox, "on disk", DIFFERS);
    sandbox.stop();
}

/// A solo daemon has no known-good image, and `status` advises `stop` and `start`.
#[test]
fn solo_daemon_has_no_known_good_image() {
    let sandbox = Sandbox::new("solo-http");
    let status = sandbox.start();
    assert_eq!(status.known_good, None);
    assert_eq!(status.image.size, Some(sandbox.image().metadata().expect("an image").len()));
    assert_eq!(on_disk(&sandbox).state, "same");
    sandbox.deploy("http");
    says(&sandbox, "on disk", "the image on disk differs from the running one; `stop` and `start`");
    sandbox.deploy_bad(Bad::Missing);
    says(&sandbox, "on disk", "the image on disk is missing; `stop` and `start` would fail");
    sandbox.deploy("solo-http");
    sandbox.stop();
}

/// An image that is only held open can be overwritten. If it was, a rollback does not execute it, even if
/// size and modification time are the same.
#[test]
fn overwritten_image_is_not_executed_again() {
    let mut sandbox = Sandbox::empty();
    sandbox.set("DAEMON_START_LIMIT_BURST", "1").set("DAEMON_BACKOFF_MIN", "10ms");
    let releases = Releases::new(&sandbox, &["http", "http-v2", "confirm-modes"]);
    sandbox.start();
    releases.switch(2);
    sandbox.restart();
    let Some(id) = sandbox.status().image.build_id else {
        unbroken_tests::skip("the linker of this machine writes no build ids");
        return;
    };
    releases.switch(3);
    sandbox.restart();

    let path = releases.path(2);
    let id: Vec<u8> = (0..id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&id[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let program = fs::read(&path).expect("a release");
    let at = program.windows(id.len()).position(|bytes| bytes == id).expect("its build id");
    let size = path.metadata().expect("a release").len();
    // Changes the build id and restores the modification time.
    let text = format!(
        "cd \"$(dirname \"$1\")/releases\" && touch -r 2 time && \
         printf '\\377\\000\\377' | dd of=2 bs=1 seek={at} conv=notrunc status=none && \
         touch -m -r time 2"
    );
    sandbox.shell(&text).expect_code(0);
    assert_eq!(path.metadata().expect("a release").len(), size);

    crash(&sandbox, 3);
    let _ = sandbox.get("/abort");
    sandbox.wait_empty(SOON);
    let log = sandbox.log();
    assert!(log.contains("/app was written to while in use"), "{log}");
    sandbox.assert_nothing_left();
}
