//! Environment variables: which of them configure the daemon, and which the program and its children inherit.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::User;
use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Child, Sandbox, eventually, skip};

const SOON: Duration = Duration::from_secs(20);

/// The environment of a child of the serving worker.
#[track_caller]
fn environment(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let text = sandbox.get("/env").expect("a response").text();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn assert_has_none(sandbox: &Sandbox, prefix: &str) {
    let found = environment(sandbox);
    assert!(found.contains_key("PATH"), "{found:#?}");
    let left: Vec<_> = found.keys().filter(|name| name.starts_with(prefix)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Kills the worker and waits until its replacement serves.
#[track_caller]
fn respawn(sandbox: &Sandbox) {
    let worker = sandbox.worker();
    worker.kill();
    eventually("it is replaced", SOON, || {
        sandbox.try_status().is_some_and(|it| {
            it.workers.iter().any(|w| w.state == "serving" && w.pid != worker.pid())
        })
    });
}

#[test]
fn kubernetes_service_links_are_ignored() {
    let mut sandbox = Sandbox::new("http");
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
        sandbox.set(name, value);
    }
    let child = sandbox.foreground();
    let found = environment(&sandbox);
    // The variables of the service link are left to the program, which may look for that service.
    assert_eq!(found.get("DAEMON_API_PORT").map(String::as_str), Some("tcp://10.96.0.7:80"));
    assert!(!found.contains_key("DAEMON_LOG"), "{found:#?}");
    sandbox.stop();
    child.wait(SOON).expect_code(0);
    sandbox.set("DAEMON_API_PROT", "80");
    sandbox.verb(["check"]).expect_code(78).expect_text("DAEMON_API_PROT is not a known variable");
}

/// The program does not inherit the variables that configure the daemon. Every later process still gets that
/// configuration: the next generation, a respawned worker, the supervisor's next image.
#[test]
fn program_does_not_inherit_daemon_variables() {
    let mut sandbox = Sandbox::new("http");
    let socket = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", socket.display()));
    sandbox.set("DAEMON_APP__COLOR", "red");
    sandbox.start();
    let at = Target::from(socket.as_path());
    for step in ["start", "restart", "upgrade", "respawn"] {
        match step {
            "restart" => _ = sandbox.restart(),
            "upgrade" => {
                sandbox.deploy("http-v2");
                sandbox.restart();
            }
            "respawn" => respawn(&sandbox),
            _ => {}
        }
        assert_has_none(&sandbox, "DAEMON_");
        assert_eq!(sandbox.target("http"), at, "{step}");
        let supervisor = sandbox.supervisor().environment();
        assert!(supervisor.contains(&"DAEMON_APP__COLOR=red".to_owned()), "{supervisor:#?}");
    }
    sandbox.stop();
}

#[test]
fn solo_program_does_not_inherit_daemon_variables() {
    let sandbox = Sandbox::new("solo-http");
    sandbox.start();
    assert_has_none(&sandbox, "DAEMON_");
    sandbox.stop();
}

/// With `env_prefix` two such programs can share an environment.
#[test]
fn env_prefix_separates_two_programs() {
    let mut sandbox = Sandbox::new("prefixed");
    for name in ["RUNTIME_DIR", "PIDFILE", "LOG"] {
        let value = sandbox.path(name).display().to_string();
        sandbox.set(&format!("HELLO_{name}"), value);
    }
    sandbox.set("HELLO_RUNTIME_DIR", sandbox.runtime_dir().display().to_string());
    sandbox.set("HELLO_PIDFILE", sandbox.pidfile().display().to_string());
    sandbox.set("DAEMON_LISTEN_HTTP", "somewhere else").set("HELLO_TITLE", "my page");
    sandbox.set("HELLO_DRAIN_TIMEOUT", "7s");
    sandbox.verb(["check"]).expect_code(0).expect_text("HELLO_DRAIN_TIMEOUT");
    sandbox.verb(["check", "--help"]).expect_code(0).expect_text("HELLO_LISTEN_HTTP__MODE");
    sandbox.verb(["unit"]).expect_code(0).expect_text("Environment=HELLO_DRAIN_TIMEOUT=7s");
    sandbox.set("HELLO_DRAIN_TIMOUT", "7s");
    sandbox.verb(["start"]).expect_code(78).expect_text("did you mean HELLO_DRAIN_TIMEOUT?");
    sandbox.unset("HELLO_DRAIN_TIMOUT");
    let child = sandbox.foreground();
    let found = environment(&sandbox);
    let ours: Vec<_> = found.keys().filter(|name| name.starts_with("HELLO_")).collect();
    assert_eq!(ours, ["HELLO_TITLE"]);
    assert_eq!(found.get("DAEMON_LISTEN_HTTP").map(String::as_str), Some("somewhere else"));
    sandbox.stop();
    child.wait(SOON).expect_code(0);
}

#[test]
fn worker_gets_the_variables_of_its_user() {
    if !rustix::process::geteuid().is_root() {
        skip("only root can become another user");
        return;
    }
    let nobody = User::from_name("nobody").expect("a user database").expect("a user `nobody`");
    let mut sandbox = Sandbox::new("http");
    sandbox.set("HOME", "/root").set("USER", "root").set("SHELL", "/bin/odd");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(sandbox.dir(), mode).expect("a mode");
    sandbox.start();
    assert_eq!(environment(&sandbox)["SHELL"], "/bin/odd");
    sandbox.stop();
    sandbox.set("DAEMON_USER", "nobody");
    sandbox.start();
    let user_variables = |sandbox: &Sandbox| {
        let found = environment(sandbox);
        ["HOME", "USER", "LOGNAME", "SHELL"].map(|name| found.get(name).cloned())
    };
    let (home, shell) = (nobody.dir.display().to_string(), nobody.shell.display().to_string());
    let expected = [home, "nobody".into(), "nobody".into(), shell].map(Some);
    assert_eq!(user_variables(&sandbox), expected);
    sandbox.restart();
    respawn(&sandbox);
    assert_eq!(user_variables(&sandbox), expected);
    sandbox.stop();
}

/// The daemon raises its limit of descriptors to the hard limit, unless `limits.nofile` is set. The usual
/// soft limit is 1024.
#[test]
fn soft_limit_of_descriptors_is_raised() {
    const CONNECTIONS: usize = 400;
    let sandbox = Sandbox::new("http");
    sandbox.shell("ulimit -Sn 256 && exec \"$1\" start").expect_code(0);
    let soft = |pid| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
        let mut words = line.split_whitespace().skip(3);
        (
            words.next().expect("a soft limit").to_owned(),
            words.next().expect("a hard one").to_owned(),
        )
    };
    let target = sandbox.target("http");
    for process in [sandbox.supervisor(), sandbox.worker()] {
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
    let report = sandbox.restart();
    report.ledger().assert_balanced();
    assert_eq!(report.ledger().forced, 0, "{report:?}");
    for connection in &mut all {
        assert!(connection.get("/").expect("it stayed open").text().contains("generation=2"));
    }
    sandbox.stop();

    // A configured limit takes precedence.
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LIMITS_NOFILE", "300:400");
    let child: Child = sandbox.foreground();
    assert_eq!(soft(sandbox.worker().pid()), ("300".into(), "400".into()));
    sandbox.stop();
    child.wait(SOON).expect_code(0);
}

/// A configured listener whose name is a misspelling of one in the attribute fails the start at once, and not
/// at the end of `ready_timeout`, which is longer than this test.
#[test]
fn misspelt_listener_fails_at_once() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.set("DAEMON_READY_TIMEOUT", "10m").set("DAEMON_LISTEN_HTP", "127.0.0.1:0");
        let expected = "the program does not accept on listener `htp`, which only DAEMON_LISTEN_HTP declares: \
                    did you mean `http`?";
        let output = sandbox.verb(["start"]).expect_code(1).expect_text(expected);
        assert!(!output.text().contains("raise"), "{output}");
        sandbox.assert_nothing_left();
        sandbox.verb(["check"]).expect_code(78).expect_text(
            "listener `htp`, which the attribute does not declare, is declared by \
             DAEMON_LISTEN_HTP only: did you mean `http`?",
        );
    }
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    std::fs::write(&file, "").expect("a file");
    sandbox.set("DAEMON_READY_TIMEOUT", "10m").set("DAEMON_CONFIG", file.display().to_string());
    sandbox.start();
    std::fs::write(&file, "listen.htp = '127.0.0.1:0'").expect("a file");
    let reason = sandbox.restart_aborts().reason.unwrap_or_default();
    let source = format!("which only {}: listen.htp declares", file.display());
    assert!(reason.contains(&source) && reason.contains("did you mean `http`?"), "{reason}");
    sandbox.stop();
}

/// A listener with another name may be accepted on later, so the daemon waits until `ready_timeout`. The
/// error then does not advise to raise the timeout.
#[test]
fn unknown_listener_is_named_with_its_source() {
    for fixture in ["http", "solo-http"] {
        let mut sandbox = Sandbox::new(fixture);
        sandbox.set("DAEMON_READY_TIMEOUT", "1s").set("DAEMON_LISTEN_METRICS", "127.0.0.1:0");
        sandbox
            .verb(["check"])
            .expect_code(0)
            .expect_text("the program is not ready until it accepts on it");
        let expected = "it was not ready within 1s: the program does not accept on listener `metrics`, which \
                    only DAEMON_LISTEN_METRICS declares";
        let output = sandbox.verb(["start"]).expect_code(1).expect_text(expected);
        assert!(!output.text().contains("raise"), "{output}");
        sandbox.assert_nothing_left();
    }
}

/// Each generation reads the files of variables again. A respawned worker has what its generation read. The
/// environment of the `restart` command is not used.
#[test]
fn each_generation_reads_its_env_file() {
    let mut sandbox = Sandbox::new("http");
    let (file, secret) = (sandbox.path("app.env"), sandbox.path("password"));
    let write = |v: &str, password: &str| {
        std::fs::write(&file, format!("V={v}\nDAEMON_DRAIN_TIMEOUT={v}s\n")).expect("a file");
        std::fs::write(&secret, password).expect("a file");
    };
    let v = |sandbox: &Sandbox| environment(sandbox).get("V").cloned().unwrap_or_default();
    write("2", "hush one");
    sandbox.set("V", "1").set("DAEMON_ENV_FILE", file.display().to_string());
    sandbox.set("DAEMON_APP__PASSWORD_FILE", secret.display().to_string());
    let check = sandbox.verb(["check"]).expect_code(0);
    let source = format!("DAEMON_DRAIN_TIMEOUT in {}", file.display());
    assert!(check.stdout.contains(&source), "{check}");
    sandbox.start();
    assert_eq!(v(&sandbox), "2");
    // An edit takes effect at the next restart, not at a respawn.
    write("3", "hush two");
    respawn(&sandbox);
    assert_eq!(v(&sandbox), "2");
    sandbox.set("V", "4");
    sandbox.restart();
    assert_eq!(v(&sandbox), "3");
    sandbox.deploy("http-v2");
    write("5", "hush three");
    sandbox.restart();
    assert_eq!(v(&sandbox), "5");
    respawn(&sandbox);
    assert_eq!(v(&sandbox), "5");
    // A file that cannot be parsed aborts the restart, and the message shows nothing of its contents.
    std::fs::write(&file, "hush").expect("a file");
    let reason = sandbox.restart_aborts().reason.unwrap_or_default();
    assert!(reason.contains("line 1: expected NAME=value") && !reason.contains("hush"), "{reason}");
    assert_eq!(v(&sandbox), "5");
    let printed = format!("{}{}", sandbox.verb(["status", "--json"]).stdout, sandbox.log());
    assert!(!printed.contains("hush"), "{printed}");
    sandbox.stop();
}

#[test]
fn solo_daemon_reads_its_env_file() {
    let mut sandbox = Sandbox::new("solo-http");
    let file = sandbox.path("app.env");
    std::fs::write(&file, "V='two words'").expect("a file");
    sandbox.set("V", "1").set("DAEMON_ENV_FILE", format!("{},-none.env", file.display()));
    sandbox.start();
    assert_eq!(environment(&sandbox)["V"], "two words");
    sandbox.stop();
}
