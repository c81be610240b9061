//! The generated units: the findings of `systemd-analyze`, and their installation.

use std::time::Duration;

use unbroken_tests::{SystemdHost, eventually};

use super::service::{Service, reloads};

/// `systemd-analyze` finds no mistake in the units, and rates the exposure of the service as OK or better.
pub(crate) fn units_pass_verify_and_security(machine: &SystemdHost) {
    let variants: [(&'static str, &str, &[&str]); 5] = [
        ("plain", "http", &[]),
        ("by-socket", "http", &["--socket"]),
        ("alone", "solo-http", &[]),
        ("by-root", "http", &["--set", "user=daemon"]),
        ("by-hup", "http", &["--notify-reload"]),
    ];
    for (name, fixture, options) in variants {
        if machine.suite() == "bookworm" && options.contains(&"--notify-reload") {
            continue;
        }
        let service = Service::new(machine, name, fixture);
        service.unit(&[], &[&["--install", "--yes"], options].concat()).expect_code(0);
        let files = format!("/etc/systemd/system/{name}*.s*");
        let verify = format!("systemd-analyze verify $(ls -d {files})");
        let verified = machine.shell(&verify).expect_code(0);
        // `verify` also looks at other enabled units, among them that of another scenario.
        let of_others = |line: &&str| line.contains("/by-signal.service:");
        let warnings: Vec<String> =
            verified.text().lines().filter(|line| !of_others(line)).map(str::to_owned).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
        let file = format!("/etc/systemd/system/{name}.service");
        let offline = ["systemd-analyze", "security", "--no-pager", "--offline=yes", &file];
        let output = machine.run(offline).expect_code(0);
        let overall = output.stdout.lines().find(|line| line.contains("Overall exposure level"));
        let overall = overall.unwrap_or_else(|| panic!("no exposure: {output}"));
        println!("{} {name}: {}", machine.suite(), overall.trim());
        // In tenths; MEDIUM begins at 5.0.
        let least =
            ["systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=49"];
        machine.run(least.into_iter().chain([file.as_str()])).expect_code(0);
    }
}

/// `unit --install` asks for confirmation, shows the difference, and replaces the file atomically.
pub(crate) fn install_asks_and_shows_the_difference(machine: &SystemdHost) {
    let service = Service::new(machine, "installed", "http");
    let file = "/etc/systemd/system/installed.service";
    service.unit(&[], &["--install"]).expect_code(2).expect_text("add --yes");
    machine.shell(&format!("test ! -e {file}")).expect_code(0);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let refused = machine.run(nobody.into_iter().chain([&*service.image, "unit", "--install"]));
    refused.expect_code(1).expect_text("needs root");

    let first = service.unit(&[], &["--install", "--yes"]).expect_code(0);
    assert!(first.stdout.starts_with("--- /dev/null\n+++ /etc/systemd/system/"), "{first}");
    assert_eq!(service.systemctl("is-enabled").stdout.trim(), "enabled");
    let again = service.unit(&[], &["--install"]).expect_code(0);
    assert!(again.stdout.starts_with("installed.service was already installed"), "{again}");

    let other = service.unit(&[("DAEMON_DRAIN_TIMEOUT", "20s")], &["--install", "--yes"]);
    let other = other.expect_code(0);
    assert!(other.stdout.contains("\n+Environment=DAEMON_DRAIN_TIMEOUT=20s\n"), "{other}");
    assert!(other.stdout.contains("\n-TimeoutStopSec="), "{other}");
    // The verb has run `daemon-reload`. While other tests write units, systemd may ask for another one.
    assert!(service.show("Environment").contains("DAEMON_DRAIN_TIMEOUT=20s"));
    eventually("systemd has the unit as it is on disk", Duration::from_secs(20), || {
        service.show("NeedDaemonReload") == "no"
    });
    let mode = machine.run(["stat", "-c", "%a %U", file]).expect_code(0);
    assert_eq!(mode.stdout, "644 root\n");
    let left = machine.shell("ls -A /etc/systemd/system | grep '^[.]' || true").stdout;
    assert_eq!(left, "");

    // `unit` without options prints the same text.
    let printed = service.unit(&[("DAEMON_DRAIN_TIMEOUT", "20s")], &[]).expect_code(0).stdout;
    let written = machine.run(["cat", file]).stdout;
    assert_eq!(printed, format!("# {file}\n{written}"));
    let _reloads = reloads();
    machine
        .shell("rm /etc/systemd/system/installed.service && systemctl daemon-reload")
        .expect_code(0);
}
