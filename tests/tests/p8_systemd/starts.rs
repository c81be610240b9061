//! Starts of services, good and bad.

use unbroken_tests::{Status, SystemdHost, eventually};

use super::service::{SOON, Service, without_reloads};

/// `systemctl start` returns when the daemon serves, which runs as a dynamic user in a strict sandbox.
pub(crate) fn start_returns_when_serving(machine: &SystemdHost) {
    let service = Service::started(machine, "start", "http");
    assert_eq!(service.serves(), ("1".into(), 1));
    assert_eq!(service.show("ActiveState"), "active");
    assert_eq!(service.show("StatusText"), "generation 1 serves");
    assert_eq!(service.show("DynamicUser"), "yes");
    assert_eq!(service.show("ProtectSystem"), "strict");

    // Verbs that root runs find the daemon in the runtime directory that systemd created.
    let main = service.show("MainPID");
    let status = machine.run(["env", "DAEMON_NAME=start", &service.image, "status", "--json"]);
    let status: Status = serde_json::from_str(&status.expect_code(0).stdout).expect("a status");
    assert_eq!((status.pid.to_string(), status.state.as_str()), (main.clone(), "running"));
    assert_eq!(status.pidfile, "/run/start/start.pid");
    let worker = status.serving().pid;
    let facts = format!(
        "stat -c '%u %a' -L /run/start; grep -h -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' \
         /proc/{worker}/status | tr '\\t' ' '"
    );
    let facts = machine.shell(&facts).expect_code(0).stdout;
    let lines: Vec<&str> = facts.lines().collect();
    let (uid, mode) = lines[0].split_once(' ').expect("two words");
    assert_ne!(uid, "0");
    assert_eq!(mode, "700");
    let expected = [
        format!("Uid: {uid} {uid} {uid} {uid}"),
        "CapEff: 0000000000000000".into(),
        "CapBnd: 0000000000000000".into(),
        "NoNewPrivs: 1".into(),
        "Seccomp: 2".into(),
    ];
    assert_eq!(&lines[1..], expected);

    service.systemctl("stop").expect_code(0);
    assert_eq!(service.show("Result"), "success");
    machine.shell("test ! -e /run/start").expect_code(0);
}

/// A start that fails is reported to systemd with its reason, and is retried only up to the start limit.
pub(crate) fn failing_start_is_reported(machine: &SystemdHost) {
    let service = Service::new(machine, "failing-start", "fails-at-start");
    service.unit(&[], &["--install", "--yes"]).expect_code(0);
    service.edit("RestartSec=50ms");
    let _counted = without_reloads();
    assert_ne!(service.systemctl("start").code(), 0);
    eventually("it is given up", SOON, || service.show("ActiveState") == "failed");
    assert_eq!(service.show("ExecMainStatus"), "1");
    let text = service.show("StatusText");
    let failed = "failed: the worker of generation 1 exited with code 1 before it was ready";
    assert_eq!(text, failed);
    let journal = service.journal();
    assert!(journal.matches("cannot open the database").count() >= 5, "{journal}");
    assert!(journal.contains("Start request repeated too quickly"), "{journal}");
}

/// A start that fails because of its configuration is not retried.
pub(crate) fn wrong_configuration_is_not_retried(machine: &SystemdHost) {
    let service = Service::new(machine, "wrong-configuration", "http");
    let output = service.unit(&[("DAEMON_DRAIN_TIMEOUT", "soon")], &[]).expect_code(78);
    assert!(output.stdout.is_empty(), "{output}");
    output.expect_text("DAEMON_DRAIN_TIMEOUT is \"soon\"");
    service.unit(&[], &["--install", "--yes"]).expect_code(0);
    service.edit("Environment=DAEMON_DRAIN_TIMEOUT=soon");
    assert_ne!(service.systemctl("start").code(), 0);
    assert_eq!(service.show("ExecMainStatus"), "78");
    assert_eq!(service.show("ActiveState"), "failed");
    assert_eq!(service.show("NRestarts"), "0");
    assert!(service.journal().contains("DAEMON_DRAIN_TIMEOUT is \"soon\""));
}

/// With `user` the unit starts the program as root, and the workers change their user themselves.
pub(crate) fn program_drops_privileges(machine: &SystemdHost) {
    let service = Service::new(machine, "drops", "http");
    service.unit(&[("DAEMON_USER", "daemon")], &["--install", "--yes"]).expect_code(0);
    service.systemctl("start").expect_code(0);
    let ids = || {
        let worker = service.get("/").number("pid").expect("a worker");
        let main = service.show("MainPID");
        let ids = format!("grep -h -E '^(Uid|CapEff):' /proc/{main}/status /proc/{worker}/status");
        machine.shell(&ids).expect_code(0).stdout.replace('\t', " ")
    };
    // CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP.
    let expected =
        "Uid: 0 0 0 0\nCapEff: 00000000000001e0\nUid: 1 1 1 1\nCapEff: 0000000000000000\n";
    assert_eq!(ids(), expected);
    service.deploy("http-v2");
    service.systemctl("reload").expect_code(0);
    assert_eq!(service.serves(), ("2".into(), 2));
    assert_eq!(ids(), expected);
    service.systemctl("stop").expect_code(0);
    assert_eq!(service.show("Result"), "success");
}

/// A solo daemon starts and stops, and systemd knows that it cannot be reloaded.
pub(crate) fn solo_daemon_starts_and_stops(machine: &SystemdHost) {
    let service = Service::started(machine, "solo", "solo-http");
    assert_eq!(service.serves().0, "solo");
    assert_eq!(service.show("CanReload"), "no");
    assert_eq!(service.show("ActiveState"), "active");
    service.systemctl("stop").expect_code(0);
    assert_eq!(service.show("Result"), "success");
}

/// Characters in paths and values that are special to systemd arrive unchanged.
pub(crate) fn odd_paths_and_values_arrive_unchanged(machine: &SystemdHost) {
    let mut service = Service::new(machine, "odd", "http");
    machine.shell("mkdir -p '/opt/my $app 100%'").expect_code(0);
    service.image = "/opt/my $app 100%/it is ödd".into();
    let link = ["ln", "-s", "/box/fixture-http", service.image.as_str()];
    machine.run(link).expect_code(0);
    let odd = "50% \"$HOME\" \\ 'x' ; ü";
    let options =
        ["--install", "--yes", "--set", "app.other=a $b %c", "--", "$x", "%y", ";", "z z"];
    service.unit(&[("DAEMON_APP__ODD", odd)], &options).expect_code(0);
    service.systemctl("start").expect_code(0);
    assert_eq!(service.serves(), ("1".into(), 1));
    let main = service.show("MainPID");
    let of = |file: &str| -> Vec<String> {
        let text = machine.run(["cat", &format!("/proc/{main}/{file}")]).expect_code(0).stdout;
        text.split_terminator('\0').map(str::to_owned).collect()
    };
    assert!(of("environ").contains(&format!("DAEMON_APP__ODD={odd}")), "{:?}", of("environ"));
    let arguments = ["run", "--set", "app.other=a $b %c", "--", "$x", "%y", ";", "z z"];
    assert_eq!(&of("cmdline")[1..], arguments);
    service.systemctl("reload").expect_code(0);
    assert_eq!(service.serves(), ("1".into(), 2));
}
