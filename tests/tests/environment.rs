//! Environment variables: which of them configure the daemon, and which the program and its children inherit.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::User;
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bed, Child, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

/// The environment of a child of the serving worker.
#[track_caller]
fn environment(bed: &Bed) -> BTreeMap<String, String> {
    let text = bed.get("/env").expect("a response").text();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn assert_has_none(bed: &Bed, prefix: &str) {
    let found = environment(bed);
    assert!(found.contains_key("PATH"), "{found:#?}");
    let left: Vec<_> = found.keys().filter(|name| name.starts_with(prefix)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Kills the worker and waits until its replacement serves.
#[track_caller]
fn respawn(bed: &Bed) {
    let worker = bed.worker();
    worker.kill();
    eventually("it is replaced", SOON, || {
        bed.try_status().is_some_and(|it| {
            it.workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
        })
    });
}

#[test]
fn kubernetes_service_links_are_ignored() {
    let mut bed = Bed::new("http");
    for (name, value) in [
        ("DAEMON_API_SERVICE_HOST", "10.96.0.7"),
        ("DAEMON_API_SERVICE_PORT", "80"),
        ("DAEMON_API_SERVICE_PORT_HTTP", "80"),
        ("DAEMON_API_PORT", "tcp://10.96.0.7:80"),
        ("DAEMON_API_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("DAEMON_API_PORT_80_TCP_PROTO", "tcp"),
        ("DAEMON_API_PORT_80_TCP_PORT", "80"),
        ("DAEMON_API_PORT_80_TCP_ADDR", "10.96.0.7"),
        // Compose writes variables without a value like this.
        ("DAEMON_LOG", ""),
        ("DAEMON_LISTEN_HTTP", ""),
        ("DAEMON_CONFIG", ""),
    ] {
        bed.set(name, value);
    }
    let child = bed.foreground();
    let found = environment(&bed);
    // The variables of the service link are left to the program, which may look for that service.
    assert_eq!(found.get("DAEMON_API_PORT").map(String::as_str), Some("tcp://10.96.0.7:80"));
    assert!(!found.contains_key("DAEMON_LOG"), "{found:#?}");
    bed.stop();
    child.wait(SOON).expect_code(0);
    bed.set("DAEMON_API_PROT", "80");
    bed.verb(["check"]).expect_code(78).expect_text("DAEMON_API_PROT is not a known variable");
}

/// The program does not inherit the variables that configure the daemon. Every later process still gets that
/// configuration: the next generation, a respawned worker, the supervisor's next image.
#[test]
fn program_does_not_inherit_daemon_variables() {
    let mut bed = Bed::new("http");
    let socket = bed.path("http.sock");
    bed.set("DAEMON_LISTEN_HTTP", format!("unix:{}", socket.display()));
    bed.set("DAEMON_APP__COLOR", "red");
    bed.start();
    let at = Target::from(socket.as_path());
    for step in ["start", "restart", "upgrade", "respawn"] {
        match step {
            "restart" => _ = bed.restart(),
            "upgrade" => {
                bed.deploy("http-v2");
                bed.restart();
            }
            "respawn" => respawn(&bed),
            _ => {}
        }
        assert_has_none(&bed, "DAEMON_");
        assert_eq!(bed.target("http"), at, "{step}");
        let supervisor = bed.supervisor().environment();
        assert!(supervisor.contains(&"DAEMON_APP__COLOR=red".to_owned()), "{supervisor:#?}");
    }
    bed.stop();
}

#[test]
fn solo_program_does_not_inherit_daemon_variables() {
    let bed = Bed::new("solo-http");
    bed.start();
    assert_has_none(&bed, "DAEMON_");
    bed.stop();
}

/// With `env_prefix` two such programs can share an environment.
#[test]
fn env_prefix_separates_two_programs() {
    let mut bed = Bed::new("prefixed");
    for name in ["RUNTIME_DIR", "PIDFILE", "LOG"] {
        let value = bed.path(name).display().to_string();
        bed.set(&format!("HELLO_{name}"), value);
    }
    bed.set("HELLO_RUNTIME_DIR", bed.runtime_dir().display().to_string());
    bed.set("HELLO_PIDFILE", bed.pidfile().display().to_string());
    bed.set("DAEMON_LISTEN_HTTP", "somewhere else").set("HELLO_TITLE", "my page");
    bed.set("HELLO_DRAIN_TIMEOUT", "7s");
    bed.verb(["check"]).expect_code(0).expect_text("HELLO_DRAIN_TIMEOUT");
    bed.verb(["check", "--help"]).expect_code(0).expect_text("HELLO_LISTEN_HTTP__MODE");
    bed.verb(["unit"]).expect_code(0).expect_text("Environment=HELLO_DRAIN_TIMEOUT=7s");
    bed.set("HELLO_DRAIN_TIMOUT", "7s");
    bed.verb(["start"]).expect_code(78).expect_text("did you mean HELLO_DRAIN_TIMEOUT?");
    bed.unset("HELLO_DRAIN_TIMOUT");
    let child = bed.foreground();
    let found = environment(&bed);
    let ours: Vec<_> = found.keys().filter(|name| name.starts_with("HELLO_")).collect();
    assert_eq!(ours, ["HELLO_TITLE"]);
    assert_eq!(found.get("DAEMON_LISTEN_HTTP").map(String::as_str), Some("somewhere else"));
    bed.stop();
    child.wait(SOON).expect_code(0);
}

#[test]
fn worker_gets_the_variables_of_its_user() {
    if !rustix::process::geteuid().is_root() {
        skip("only root can become another user");
        return;
    }
    let nobody = User::from_name("nobody").expect("a user database").expect("a user `nobody`");
    let mut bed = Bed::new("http");
    bed.set("HOME", "/root").set("USER", "root").set("SHELL", "/bin/odd");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(bed.dir(), mode).expect("a mode");
    bed.start();
    assert_eq!(environment(&bed)["SHELL"], "/bin/odd");
    bed.stop();
    bed.set("DAEMON_USER", "nobody");
    bed.start();
    let told = |bed: &Bed| {
        let found = environment(bed);
        ["HOME", "USER", "LOGNAME", "SHELL"].map(|name| found.get(name).cloned())
    };
    let (home, shell) = (nobody.dir.display().to_string(), nobody.shell.display().to_string());
    let expected = [home, "nobody".into(), "nobody".into(), shell].map(Some);
    assert_eq!(told(&bed), expected);
    bed.restart();
    respawn(&bed);
    assert_eq!(told(&bed), expected);
    bed.stop();
}

/// The daemon raises its limit of descriptors to the hard limit, unless `limits.nofile` is set. The usual
/// soft limit is 1024.
#[test]
fn soft_limit_of_descriptors_is_raised() {
    const CONNECTIONS: usize = 400;
    let bed = Bed::new("http");
    bed.shell("ulimit -Sn 256 && exec \"$1\" start").expect_code(0);
    let soft = |pid| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
        let mut words = line.split_whitespace().skip(3);
        (
            words.next().expect("a soft limit").to_owned(),
            words.next().expect("a hard one").to_owned(),
        )
    };
    let target = bed.target("http");
    for process in [bed.supervisor(), bed.worker()] {
        let (soft, hard) = soft(process.pid());
        assert_eq!(soft, hard);
    }
    let mut all: Vec<Connection> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = Connection::open(&target).expect("a connection");
            connection.get("/").expect("a response");
            connection
        })
        .collect();
    let report = bed.restart();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().forced, 0, "{report:?}");
    for connection in &mut all {
        assert!(connection.get("/").expect("it stayed open").text().contains("generation=2"));
    }
    bed.stop();

    // A configured limit takes precedence.
    let mut bed = Bed::new("http");
    bed.set("DAEMON_LIMITS_NOFILE", "300:400");
    let child: Child = bed.foreground();
    assert_eq!(soft(bed.worker().pid()), ("300".into(), "400".into()));
    bed.stop();
    child.wait(SOON).expect_code(0);
}

/// A configured listener whose name is a misspelling of one in the attribute fails the start at once, and not
/// at the end of `ready_timeout`, which is longer than this test.
#[test]
fn misspelt_listener_fails_at_once() {
    for fixture in ["http", "solo-http"] {
        let mut bed = Bed::new(fixture);
        bed.set("DAEMON_READY_TIMEOUT", "10m").set("DAEMON_LISTEN_HTP", "127.0.0.1:0");
        let said = "the program does not accept on listener `htp`, which only DAEMON_LISTEN_HTP declares: \
                    did you mean `http`?";
        let output = bed.verb(["start"]).expect_code(1).expect_text(said);
        assert!(!output.text().contains("raise"), "{output}");
        bed.assert_nothing_left();
        bed.verb(["check"]).expect_code(78).expect_text(
            "listener `htp`, which the attribute does not declare, is declared by \
             DAEMON_LISTEN_HTP only: did you mean `http`?",
        );
    }
    let mut bed = Bed::new("http");
    let file = bed.path("app.toml");
    std::fs::write(&file, "").expect("a file");
    bed.set("DAEMON_READY_TIMEOUT", "10m").set("DAEMON_CONFIG", file.display().to_string());
    bed.start();
    std::fs::write(&file, "listen.htp = '127.0.0.1:0'").expect("a file");
    let reason = bed.restart_aborts().reason.unwrap_or_default();
    let source = format!("which only {}: listen.htp declares", file.display());
    assert!(reason.contains(&source) && reason.contains("did you mean `http`?"), "{reason}");
    bed.stop();
}

/// A listener with another name may be accepted on later, so the daemon waits until `ready_timeout`. The
/// error then does not advise to raise the timeout.
#[test]
fn unknown_listener_is_named_with_its_source() {
    for fixture in ["http", "solo-http"] {
        let mut bed = Bed::new(fixture);
        bed.set("DAEMON_READY_TIMEOUT", "1s").set("DAEMON_LISTEN_METRICS", "127.0.0.1:0");
        bed.verb(["check"])
            .expect_code(0)
            .expect_text("the program is not ready until it accepts on it");
        let said = "it was not ready within 1s: the program does not accept on listener `metrics`, which \
                    only DAEMON_LISTEN_METRICS declares";
        let output = bed.verb(["start"]).expect_code(1).expect_text(said);
        assert!(!output.text().contains("raise"), "{output}");
        bed.assert_nothing_left();
    }
}

/// Each generation reads the files of variables again. A respawned worker has what its generation read. The
/// environment of the `restart` command is not used.
#[test]
fn each_generation_reads_its_env_file() {
    let mut bed = Bed::new("http");
    let (file, secret) = (bed.path("app.env"), bed.path("password"));
    let write = |v: &str, password: &str| {
        std::fs::write(&file, format!("V={v}\nDAEMON_DRAIN_TIMEOUT={v}s\n")).expect("a file");
        std::fs::write(&secret, password).expect("a file");
    };
    let v = |bed: &Bed| environment(bed).get("V").cloned().unwrap_or_default();
    write("2", "hush one");
    bed.set("V", "1").set("DAEMON_ENV_FILE", file.display().to_string());
    bed.set("DAEMON_APP__PASSWORD_FILE", secret.display().to_string());
    let check = bed.verb(["check"]).expect_code(0);
    let source = format!("DAEMON_DRAIN_TIMEOUT in {}", file.display());
    assert!(check.stdout.contains(&source), "{check}");
    bed.start();
    assert_eq!(v(&bed), "2");
    // An edit takes effect at the next restart, not at a respawn.
    write("3", "hush two");
    respawn(&bed);
    assert_eq!(v(&bed), "2");
    bed.set("V", "4");
    bed.restart();
    assert_eq!(v(&bed), "3");
    bed.deploy("http-v2");
    write("5", "hush three");
    bed.restart();
    assert_eq!(v(&bed), "5");
    respawn(&bed);
    assert_eq!(v(&bed), "5");
    // A file that cannot be parsed aborts the restart, and the message shows nothing of its contents.
    std::fs::write(&file, "hush").expect("a file");
    let reason = bed.restart_aborts().reason.unwrap_or_default();
    assert!(reason.contains("line 1: expected NAME=value") && !reason.contains("hush"), "{reason}");
    assert_eq!(v(&bed), "5");
    let said = format!("{}{}", bed.verb(["status", "--json"]).stdout, bed.log());
    assert!(!said.contains("hush"), "{said}");
    bed.stop();
}

#[test]
fn solo_daemon_reads_its_env_file() {
    let mut bed = Bed::new("solo-http");
    let file = bed.path("app.env");
    std::fs::write(&file, "V='two words'").expect("a file");
    bed.set("V", "1").set("DAEMON_ENV_FILE", format!("{},-none.env", file.display()));
    bed.start();
    assert_eq!(environment(&bed)["V"], "two words");
    bed.stop();
}
