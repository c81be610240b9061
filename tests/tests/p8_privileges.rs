//! P8: workers have the privileges that the settings name, and no others. The supervisor keeps its own.

#![allow(clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nix::unistd::{Group, User};
use unbroken_tests::http::Connection;
use unbroken_tests::{Child, Load, Process, Sandbox, eventually, program, skip};

const SOON: Duration = Duration::from_secs(20);

/// The user and group ids of the account `nobody`.
struct Nobody {
    uid: u32,
    gid: u32,
}

/// Returns the account as which workers run here. Reports a skipped test without root.
#[track_caller]
fn nobody() -> Option<Nobody> {
    if !rustix::process::geteuid().is_root() {
        skip("only root has privileges to drop");
        return None;
    }
    let user = User::from_name("nobody").expect("a user database").expect("a user `nobody`");
    Some(Nobody { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

fn group(name: &str) -> u32 {
    Group::from_name(name).expect("a group database").expect(name).gid.as_raw()
}

/// Creates a sandbox whose workers run as `nobody`, in a directory that they can search.
fn sandbox(fixture: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    mode(sandbox.dir(), 0o711);
    sandbox.set("DAEMON_USER", "nobody");
    sandbox
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// An address with port 80, which only root may bind, that no other test uses.
fn low_port() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low, ..] = std::process::id().to_be_bytes()[2..] else { unreachable!() };
    format!("127.{}.{high}.{low}:80", 100 + NEXT.fetch_add(1, Ordering::Relaxed))
}

fn says(sandbox: &Sandbox, path: &str) -> String {
    sandbox.get(path).expect("a response").text().trim().to_owned()
}

fn numbers(process: &Process, field: &str) -> Vec<u32> {
    let text = process.field(field).expect("a process");
    text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn set(process: &Process, field: &str) -> u64 {
    u64::from_str_radix(&process.field(field).expect("a process"), 16).expect("a set")
}

/// Asserts that the worker runs as this account, without any capability, and cannot gain one.
#[track_caller]
fn assert_is(worker: &Process, who: &Nobody) {
    assert_eq!(numbers(worker, "Uid"), [who.uid; 4]);
    assert_eq!(numbers(worker, "Gid"), [who.gid; 4]);
    assert_eq!(numbers(worker, "Groups"), [who.gid]);
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(set(worker, field), 0, "{field}");
    }
    assert_eq!(numbers(worker, "NoNewPrivs"), [1]);
}

/// Workers that run as `nobody` serve port 80 across restarts, upgrades of the supervisor and a crash.
#[test]
fn worker_as_nobody_serves_port_80() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    sandbox.set("DAEMON_LISTEN_HTTP", low_port());
    let target = sandbox.start().target("http");
    let supervisor = sandbox.supervisor();
    let load = Load::on(target.clone()).keep_alive(8).start();
    let mut idle = Connection::open(&target).expect("a connection");
    idle.get("/").expect("a response");
    for (restart, fixture) in ["http-v2", "http", "http-v2"].into_iter().enumerate() {
        assert_is(&sandbox.worker(), &nobody);
        load.wait_for(200);
        sandbox.deploy(fixture);
        let report = sandbox.restart();
        report.ledger().assert_balanced();
        assert!(report.ledger().handed_off > 0, "{report:?}");
        load.wait_for_generation(restart as u64 + 2);
    }
    let status = sandbox.status();
    eventually("the supervisor is upgraded", SOON, || {
        sandbox.log().contains("the supervisor runs the image of generation 4")
    });
    assert_eq!((supervisor.pid(), numbers(&supervisor, "Uid")), (status.pid, vec![0; 4]));
    load.stop().assert_nothing_failed();
    assert_eq!(idle.get("/").expect("it stayed open").number("generation"), Some(4));

    let worker = sandbox.worker();
    worker.kill();
    eventually("it is replaced", SOON, || {
        sandbox.status().workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
    });
    assert_is(&sandbox.worker(), &nobody);
    sandbox.stop();
}

/// A worker cannot signal, trace or read its supervisor, nor write its files.
#[test]
fn worker_has_no_power_over_its_supervisor() {
    let Some(nobody) = nobody() else { return };
    let sandbox = sandbox("privileges");
    let spool = sandbox.path("spool");
    fs::create_dir(&spool).expect("a directory");
    chown(&spool, Some(nobody.uid), None).expect("root");
    sandbox.start();
    let pid = sandbox.supervisor().pid();
    assert_eq!(says(&sandbox, &format!("/touch{}/file", spool.display())), "ok");
    let file = fs::metadata(spool.join("file")).expect("a file");
    assert_eq!((file.uid(), file.gid()), (nobody.uid, nobody.gid));

    for (path, answer) in [
        ("/root".to_owned(), "EPERM"),
        (format!("/signal/{pid}"), "EPERM"),
        (format!("/trace/{pid}"), "EPERM"),
        (format!("/memory/{pid}"), "Permission denied"),
        (format!("/list{}", sandbox.runtime_dir().display()), "Permission denied"),
        (format!("/touch{}", sandbox.pidfile().display()), "Permission denied"),
        (format!("/touch{}", sandbox.image().display()), "Permission denied"),
        ("/bind/127.0.0.1:79".to_owned(), "Permission denied"),
    ] {
        let response = says(&sandbox, &path);
        assert!(response.contains(answer), "{path}: {response}");
    }
    assert_eq!(sandbox.status().pid, pid);
    sandbox.restart();
    sandbox.stop();
}

#[test]
fn worker_has_exactly_the_configured_groups() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    sandbox.set("DAEMON_GROUP", "daemon").set("DAEMON_GROUPS", "sys, 4000000, sys");
    sandbox.start();
    for _ in 0..2 {
        let worker = sandbox.worker();
        assert_eq!(numbers(&worker, "Uid"), [nobody.uid; 4]);
        assert_eq!(numbers(&worker, "Gid"), [group("daemon"); 4]);
        assert_eq!(numbers(&worker, "Groups"), [group("sys"), 4_000_000]);
        sandbox.restart();
    }
    sandbox.stop();

    // No supplementary groups, and a user without an account.
    sandbox
        .set("DAEMON_USER", "4000001")
        .set("DAEMON_GROUP", "4000002")
        .set("DAEMON_GROUPS", "none");
    sandbox.start();
    let worker = sandbox.worker();
    assert_eq!(numbers(&worker, "Uid"), [4_000_001; 4]);
    assert_eq!((numbers(&worker, "Gid"), numbers(&worker, "Groups")), (vec![4_000_002; 4], vec![]));
    sandbox.stop();
}

/// A configured capability is kept, can be used, and is inherited by programs that the worker executes.
#[test]
fn configured_capabilities_are_kept() {
    let Some(nobody) = nobody() else { return };
    const NET_BIND_SERVICE: u64 = 1 << 10;
    let mut sandbox = sandbox("privileges");
    sandbox.set("DAEMON_CAPABILITIES", "CAP_NET_BIND_SERVICE");
    sandbox.start();
    let worker = sandbox.worker();
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(set(&worker, field), NET_BIND_SERVICE, "{field}");
    }
    assert_eq!(numbers(&worker, "Uid"), [nobody.uid; 4]);
    assert_eq!(says(&sandbox, &format!("/bind/{}", low_port())), "ok");
    assert_eq!(says(&sandbox, "/root"), "EPERM: Operation not permitted");
    sandbox.stop();

    // Root with fewer capabilities cannot regain the others.
    sandbox.unset("DAEMON_USER").set("DAEMON_CAPABILITIES", "chown,net_bind_service");
    sandbox.start();
    let worker = sandbox.worker();
    assert_eq!(numbers(&worker, "Uid"), [0; 4]);
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(set(&worker, field), NET_BIND_SERVICE | 1, "{field}");
    }
    assert_eq!(numbers(&worker, "NoNewPrivs"), [0]);
    sandbox.stop();
}

/// With `no_new_privileges = false` a worker can gain privileges, as programs that run sudo or sendmail need.
#[test]
fn no_new_privileges_can_be_switched_off() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    sandbox.set("DAEMON_NO_NEW_PRIVILEGES", "false");
    sandbox.start();
    let (worker, supervisor) = (sandbox.worker(), sandbox.supervisor());
    assert_eq!(numbers(&worker, "Uid"), [nobody.uid; 4]);
    assert_eq!((numbers(&worker, "NoNewPrivs"), set(&worker, "CapEff")), (vec![0], 0));
    assert_eq!(set(&worker, "CapBnd"), set(&supervisor, "CapBnd"));
    sandbox.stop();
}

/// The soft and hard limit in `/proc/<pid>/limits`.
fn limit(process: &Process, name: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{}/limits", process.pid())).expect("limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().expect("soft"), words.next().expect("hard"))
}

#[track_caller]
fn assert_limited(process: &Process, nofile: (&str, &str)) {
    let (soft, hard) = limit(process, "Max open files");
    assert_eq!((soft.as_str(), hard.as_str()), nofile);
    assert_eq!(limit(process, "Max core file size"), ("0".into(), "0".into()));
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid()));
    assert_eq!(read("oom_score_adj").expect("a process").trim(), "300");
    let stat = read("stat").expect("a process");
    let nice = stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(16);
    assert_eq!(nice, Some("7"));
}

/// Limits apply to the workers and not to the supervisor. A restart changes them, and a respawned worker has
/// those of its generation.
#[test]
fn limits_apply_to_workers_only() {
    if nobody().is_none() {
        return;
    }
    let mut sandbox = sandbox("http");
    let config = sandbox.path("app.toml");
    let write = |nofile: &str| {
        let text =
            format!("oom_score_adj = 300\nnice = 7\n[limits]\ncore = 0\nnofile = {nofile}\n");
        fs::write(&config, text).expect("a file");
    };
    write("'500:600'");
    sandbox.set("DAEMON_CONFIG", config.display().to_string());
    sandbox.start();
    let untouched = limit(&sandbox.supervisor(), "Max open files");
    assert_ne!(untouched.1, "600");
    assert_limited(&sandbox.worker(), ("500", "600"));
    write("800");
    sandbox.restart();
    assert_limited(&sandbox.worker(), ("800", "800"));
    write("900");
    let worker = sandbox.worker();
    worker.kill();
    eventually("it is replaced", SOON, || {
        sandbox.status().workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
    });
    assert_limited(&sandbox.worker(), ("800", "800"));
    assert_eq!(limit(&sandbox.supervisor(), "Max open files"), untouched);
    sandbox.stop();
}

/// A worker serves in a `chroot` with nothing in it: no loader, no library, no `/proc`.
#[test]
fn worker_serves_in_an_empty_chroot() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("privileges");
    let jail = sandbox.path("jail");
    fs::create_dir_all(jail.join("spool")).expect("directories");
    sandbox.set("DAEMON_CHROOT", jail.display().to_string()).set("DAEMON_WORKDIR", "/spool");
    sandbox.start();
    let inode = fs::metadata(&jail).expect("a directory").ino();
    assert_eq!(says(&sandbox, "/here"), format!("/spool {inode}"));
    assert_eq!(says(&sandbox, "/list/."), "spool");
    assert_is(&sandbox.worker(), &nobody);
    let target = sandbox.target("http");
    let load = Load::on(target).keep_alive(4).start();
    load.wait_for(100);
    sandbox.deploy("http-v2");
    sandbox.restart().ledger().assert_balanced();
    load.wait_for_generation(2);
    load.stop().assert_nothing_failed();
    sandbox.stop();
}

/// A step of the privilege drop that would fail is reported by `check`, fails the start, and aborts a
/// restart.
#[test]
fn failing_step_is_reported() {
    if nobody().is_none() {
        return;
    }
    let mut sandbox = sandbox("http");
    let config = sandbox.path("app.toml");
    sandbox.set("DAEMON_CONFIG", config.display().to_string()).unset("DAEMON_USER");
    fs::write(&config, "user = 'nobody'").expect("a file");
    let target = sandbox.start().target("http");
    let worker = sandbox.worker();
    let load = Load::on(target).keep_alive(2).pause(Duration::from_millis(1)).start();
    let gone = sandbox.path("gone").display().to_string();
    for (text, key, sentence) in [
        ("user = 'nobodi'", "user", "`user` nobodi does not exist on this host".to_owned()),
        ("user = 4000000", "", "`user` 4000000 is not in the user database".into()),
        (
            "user = 'nobody'\ngroup = 'none-such'",
            "group",
            "`group` none-such does not exist".into(),
        ),
        (
            "user = 'nobody'\ngroups = ['none-such']",
            "groups",
            "`groups` none-such does not exist".into(),
        ),
        (&format!("chroot = '{gone}'"), "chroot", format!("`chroot` {gone}")),
        (&format!("workdir = '{gone}'"), "workdir", format!("`workdir` {gone}")),
        ("limits.nofile = 4000000000", "limits.nofile", "`limits.nofile`".into()),
    ] {
        fs::write(&config, text).expect("a file");
        let reason = sandbox.restart_aborts().reason.expect("a reason");
        assert!(reason.contains(&sentence), "{text}: {reason}");
        assert_eq!(sandbox.status().serving().pid, worker.pid(), "{text}");
        let checked = sandbox.verb(["check"]).expect_code(78).expect_text(&sentence);
        assert!(
            key.is_empty()
                || checked.stderr.contains(
                    &format!("(FILE: {key})").replace("FILE", &config.display().to_string())
                ),
            "{checked}"
        );
    }
    load.stop().assert_nothing_failed();
    sandbox.stop();
    fs::write(&config, "user = 'nobodi'").expect("a file");
    sandbox
        .verb(["start"])
        .expect_code(78)
        .expect_text("`user` nobodi does not exist on this host");
    sandbox.assert_nothing_left();
}

/// `check` warns of a file in `[app]` that the worker's user cannot read, because the program opens it.
#[test]
fn unreadable_key_file_is_reported() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    let key = sandbox.path("tls.key");
    fs::write(&key, "secret").expect("a file");
    mode(&key, 0o640);
    sandbox.set("DAEMON_APP__TLS__KEY", key.display().to_string());
    let sentence = format!(
        "the worker's user {} may not read {}, named by `app.tls.key`",
        nobody.uid,
        key.display()
    );
    sandbox
        .verb(["check"])
        .expect_code(0)
        .expect_text(&sentence)
        .expect_text("DAEMON_APP__TLS__KEY");
    for allowed in ["capabilities", "groups"] {
        match allowed {
            "capabilities" => sandbox.set("DAEMON_CAPABILITIES", "dac_read_search"),
            _ => sandbox.unset("DAEMON_CAPABILITIES").set("DAEMON_GROUPS", "0"),
        };
        let checked = sandbox.verb(["check"]).expect_code(0);
        assert!(!checked.text().contains("may not read"), "{allowed}: {checked}");
    }
}

/// The start fails with the reason where root cannot drop its groups, as in a user namespace.
#[test]
fn root_that_may_not_drop_is_reported() {
    if nobody().is_none() {
        return;
    }
    let sandbox = sandbox("http");
    let tried =
        Child::spawn(&mut sandbox.command_of("unshare", ["--user", "--map-root-user", "true"]));
    if tried.wait(SOON).code() != 0 {
        return skip("user namespaces are not to be had here");
    }
    let arguments = ["--user", "--map-root-user"].map(AsRef::as_ref).into_iter();
    let image = sandbox.image();
    let arguments = arguments.chain([image.as_os_str(), "start".as_ref()]);
    let output = Child::spawn(&mut sandbox.command_of("unshare", arguments)).wait(SOON);
    output
        .expect_code(78)
        .expect_text("cannot set the groups of `nobody` (setgroups); root may not do that here");
    sandbox.assert_nothing_left();
}

/// A worker notices that it still has privileges although every call to drop them has succeeded.
#[test]
fn undropped_privileges_are_noticed() {
    let Some(nobody) = nobody() else { return };
    let sandbox = sandbox("http");
    let test = std::env::current_exe().expect("this test");
    let deceived =
        test.parent().and_then(Path::parent).expect("a directory").join("fixture-deceived");
    let target_file = sandbox.path("deceived");
    program::copy(&deceived, &target_file);
    for (calls, sentence) in [
        ("setresuid", format!("the process is user 0, group {} ", nobody.gid)),
        ("setresgid", format!("the process is user {}, group 0 ", nobody.uid)),
        ("setgroups", format!("user {}, group {} and in groups [", nobody.uid, nobody.gid)),
        ("setresuid,setresgid,setgroups", "the process is user 0, group 0".to_owned()),
    ] {
        let image = sandbox.image();
        let arguments = [calls.as_ref(), image.as_os_str(), "start".as_ref()];
        let output = Child::spawn(&mut sandbox.command_of(&target_file, arguments)).wait(SOON);
        let output = output.expect_code(1);
        let output =
            output.expect_text("privileges were not dropped although every call succeeded");
        output.expect_text(&sentence);
        sandbox.assert_nothing_left();
    }
}

/// Without root `user` may only name the current user, which `check` reports.
#[test]
fn unprivileged_user_cannot_become_another() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    let home = sandbox.path("home");
    fs::create_dir(&home).expect("a directory");
    chown(&home, Some(nobody.uid), Some(nobody.gid)).expect("root");
    for (variable, file) in
        [("DAEMON_RUNTIME_DIR", ""), ("DAEMON_PIDFILE", "app.pid"), ("DAEMON_LOG", "app.log")]
    {
        sandbox.set(variable, home.join(file).display().to_string());
    }
    let as_nobody = |sandbox: &Sandbox, verb: &str| {
        let mut command = sandbox.command([verb]);
        Child::spawn(command.uid(nobody.uid).gid(nobody.gid)).wait(SOON)
    };
    // The current user is accepted.
    as_nobody(&sandbox, "check").expect_code(0);
    as_nobody(&sandbox, "start").expect_code(0);
    assert_eq!(numbers(&sandbox.worker(), "NoNewPrivs"), [1]);
    as_nobody(&sandbox, "stop").expect_code(0);

    sandbox.set("DAEMON_USER", "daemon");
    as_nobody(&sandbox, "check")
        .expect_code(78)
        .expect_text("cannot become `user` daemon")
        .expect_text("(DAEMON_USER)");
    as_nobody(&sandbox, "start").expect_code(78).expect_text("start it as root");

    sandbox.set("DAEMON_USER", "nobody").set("DAEMON_LISTEN_HTTP", low_port());
    sandbox.set("DAEMON_CAPABILITIES", "chown").set("DAEMON_LIMITS_NOFILE", "unlimited");
    as_nobody(&sandbox, "check")
        .expect_code(78)
        .expect_text("which only root may bind")
        .expect_text("(DAEMON_LISTEN_HTTP)")
        .expect_text("does not have the `capabilities` chown")
        .expect_text("`limits.nofile` unlimited is above the hard limit");
    sandbox.unset("DAEMON_CAPABILITIES").unset("DAEMON_LIMITS_NOFILE");
    sandbox.set("DAEMON_LISTEN_HTTP", "192.0.2.7:8080");
    as_nobody(&sandbox, "check").expect_code(78).expect_text("which no interface of this host has");
}

/// An image that the worker's user can write is refused, because the supervisor executes it as root.
#[test]
fn image_of_the_workers_user_is_refused() {
    let Some(nobody) = nobody() else { return };
    let sandbox = sandbox("http");
    sandbox.start();
    let worker = sandbox.worker();
    chown(sandbox.image(), Some(nobody.uid), None).expect("root");
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("is writable by the user of its worker; run `chown root"), "{reason}");
    sandbox.verb(["check"]).expect_code(78).expect_text("by the user of its worker");
    chown(sandbox.image(), Some(0), Some(nobody.gid)).expect("root");
    mode(&sandbox.image(), 0o775);
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("by a group of its worker; run `chmod g-w"), "{reason}");
    assert_eq!(sandbox.status().serving().pid, worker.pid());
    sandbox.stop();
    // At the first start the worker reports it.
    sandbox.verb(["start"]).expect_code(1).expect_text("by a group of its worker");
    sandbox.assert_nothing_left();
}

/// Orphans that run as another user are re-attached, and no request fails.
#[test]
fn orphans_of_another_user_are_reattached() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("http");
    sandbox.set("DAEMON_ORPHAN_GRACE", "60s");
    let target = sandbox.start().target("http");
    let load = Load::on(target).keep_alive(8).start();
    load.wait_for(200);
    let worker = sandbox.worker();
    sandbox.supervisor().kill();
    sandbox.start();
    load.wait_for_generation(2);
    assert!(worker.wait_gone(SOON));
    assert_is(&sandbox.worker(), &nobody);
    let ledger = load.stop();
    ledger.assert_nothing_failed();
    assert_eq!(ledger.ended_by_server(), 0, "{ledger}");
    sandbox.stop();
}

/// A solo daemon drops its privileges after it has bound its listeners.
#[test]
fn solo_daemon_drops_privileges() {
    let Some(nobody) = nobody() else { return };
    let mut sandbox = sandbox("solo-http");
    sandbox.set("DAEMON_LISTEN_HTTP", low_port());
    let status = sandbox.start();
    let process = Process::open(status.pid).expect("it");
    assert_is(&process, &nobody);
    sandbox.get("/").expect("a response");
    sandbox.verb(["stop"]).expect_code(0);
    assert!(!process.is_alive());
    assert!(!sandbox.pidfile().exists() && !sandbox.socket().exists(), "something is left");
    sandbox.set("DAEMON_USER", "nobodi");
    sandbox
        .verb(["start"])
        .expect_code(78)
        .expect_text("`user` nobodi does not exist on this host");
    sandbox.assert_nothing_left();
}
