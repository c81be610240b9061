//! The text of the `.service` unit.

use std::time::Duration;

use super::plan::{ServicePlaces, UnitPlan};
use super::text::{self, Text};
use crate::config::{LOCATION, RestartPolicy};
use unbroken_core::sorted::SortedSet;

/// What the timeouts of the unit exceed those of the daemon by. The daemon has to meet its own
/// first, to report the reason; systemd would only kill it.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// The number of starts after which systemd gives up. Its own default, for an interval that fits
/// the timeouts.
const START_LIMIT_BURST: u32 = 5;

/// The size of the fd store beyond the number of today's listeners, for those of later generations: the unit
/// is not written again at a restart.
const SPARE_DESCRIPTORS: usize = 16;

/// The text of the unit. `sockets` are the names of the `.socket` units.
pub(super) fn service(plan: &UnitPlan, sockets: &[String]) -> String {
    let places = plan.places();
    let mut text = Text::default();
    head(&mut text, plan, sockets);
    process(&mut text, plan, sockets);
    ends(&mut text, plan);
    resources(&mut text, plan, &places);
    identity(&mut text, plan, &places);
    sandbox(&mut text, plan, &places);
    text.section("Install").set("WantedBy", "multi-user.target");
    text.into_string()
}

fn head(text: &mut Text, plan: &UnitPlan, sockets: &[String]) {
    let network = if plan.needs_network() { "network-online.target" } else { "network.target" };
    text.section("Unit").set("Description", text::whole(&plan.settings.name));
    if plan.needs_network() {
        text.set("Wants", network);
    }
    text.set("After", network);
    if !sockets.is_empty() {
        text.set("Requires", sockets.join(" ")).set("After", sockets.join(" "));
    }
    let one = text::seconds(start_limit(plan)) + 1;
    text.group(
        "Stop restarting after this many starts within the interval. It has room for\n\
             that many starts that time out.",
    )
    .set("StartLimitBurst", START_LIMIT_BURST)
    .set("StartLimitIntervalSec", u64::from(START_LIMIT_BURST) * one);
}

fn process(text: &mut Text, plan: &UnitPlan, sockets: &[String]) {
    let settings = &plan.settings;
    // `path` and not `argument`: systemd expands no variables in the path of a program.
    let image = text::path(&plan.image);
    let options = |keys: &[&str]| -> String {
        let given = plan.overrides.iter().filter(|option| {
            let key = option.split_once('=').map_or("", |(key, _)| key);
            keys.is_empty() || keys.contains(&key)
        });
        given.map(|option| format!(" --set {}", text::argument(option))).collect()
    };
    let mut run = format!("{image} run{}", options(&[]));
    if !plan.arguments.is_empty() {
        run += " --";
        plan.arguments.iter().for_each(|word| run += &format!(" {}", text::argument(word)));
    }
    text.section("Service");
    if plan.notify_reload {
        text.comment(
            "The program reports to systemd when it is ready, reloads and stops (sd_notify(3)).\n\
             This type needs systemd 253: older versions do not know it and do not wait for\n\
             the program to be ready.",
        )
        .set("Type", "notify-reload");
    } else {
        text.comment(
            "The program reports to systemd when it is ready, reloads and stops (sd_notify(3)).",
        )
        .set("Type", "notify");
    }
    text.set("NotifyAccess", "main").set("ExecStart", run);
    if !sockets.is_empty() {
        text.set("Sockets", sockets.join(" "));
    }
    if !settings.graceful_restart {
        text.group(
            "No ExecReload=: this program has no supervisor that could replace its code. Add\n\
             `graceful_restart` to its attribute to get one.",
        );
    } else if plan.notify_reload {
        text.group(
            "A reload replaces the running code with the program on disk. If the new code\n\
             fails, systemd reports no error: the old code keeps serving, and\n\
             `systemctl status` shows the reason.",
        )
        .set("ReloadSignal", "SIGHUP");
    } else {
        text.group(
            "A reload replaces the running code with the program on disk. If the new code\n\
             fails, the reload fails with the reason and the old code keeps serving.",
        )
        .set("ExecReload", format!("{image} restart --no-wait{}", options(&LOCATION)));
    }
    if !plan.variables.is_empty() {
        text.group(
            "Configuration. All users can read this file: pass secrets as credentials \
             (systemd.exec(5)).",
        );
        for (name, value) in &plan.variables {
            // The assignment is quoted as a whole, the form that systemd.exec(5) shows.
            text.set("Environment", text::word(&format!("{name}={value}")));
        }
    }
    if !plan.environment_files.is_empty() {
        text.group("Variables of the program. They take precedence over Environment=.");
        for file in &plan.environment_files {
            let optional = if file.optional { "-" } else { "" };
            text.set("EnvironmentFile", format_args!("{optional}{}", text::path(&file.path)));
        }
    }
}

fn ends(text: &mut Text, plan: &UnitPlan) {
    let settings = &plan.settings;
    text.group(
        "Longer than `ready_timeout` and, for a reload, the time until the new code is confirmed.",
    )
    .set("TimeoutStartSec", text::seconds(start_limit(plan)));
    text.group("Longer than `lame_duck`, `drain_timeout` and `kill_timeout` together.")
        .set("TimeoutStopSec", text::seconds(stop_limit(plan)));
    if settings.orphan_grace.is_zero() {
        text.group(
            "Send SIGTERM to the main process only, and SIGKILL to all that are left afterwards.",
        )
        .set("KillMode", "mixed");
    } else {
        text.group("Workers keep serving if the supervisor is killed (`orphan_grace`).")
            .set("KillMode", "process");
    }
    if settings.graceful_restart {
        text.group(
            "If the kernel kills a worker because memory is short, keep the service running:\n\
             the supervisor replaces the worker.",
        )
        .set("OOMPolicy", "continue");
    }
    // While a worker hangs, the supervisor sends no keep-alive until the worker is replaced: the limit has to
    // cover the replacement.
    let watchdog = match settings.watchdog {
        Duration::ZERO => Duration::from_secs(30),
        _ => settings.kill_timeout + settings.ready_timeout + settings.backoff_min + TIMEOUT_MARGIN,
    };
    text.group("Restart the service if the main process sends no watchdog ping for this long.")
        .set("WatchdogSec", text::seconds(watchdog));
    match (settings.graceful_restart, settings.restart) {
        (true, RestartPolicy::No) => {
            text.group("As set by `restart` in the program's configuration.").set("Restart", "no");
        }
        _ => {
            text.group(
                "Do not restart after a configuration error (78), which would only occur again.",
            )
            .set("Restart", "on-failure")
            .set("RestartSec", 1)
            .set("RestartPreventExitStatus", 78);
        }
    }
}

fn resources(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    text.group("Every connection takes a file descriptor.").set("LimitNOFILE", 65536);
    if !plan.settings.listen.is_empty() {
        let listeners = plan.settings.listen.values().map(|listener| listener.addrs().len());
        let most = listeners.sum::<usize>() + SPARE_DESCRIPTORS;
        text.group(
            "The number of listening sockets that systemd stores, so that they stay open\n\
             across `systemctl restart`. systemd 254 and later set FDSTORE themselves.",
        )
        .set("FileDescriptorStoreMax", most)
        .set("Environment", format_args!("FDSTORE={most}"))
        .set("NonBlocking", "yes");
    }
    if let Some(dir) = &places.runtime {
        text.group("For the pidfile and the control socket.")
            .set("RuntimeDirectory", text::word(dir))
            .set("RuntimeDirectoryMode", "0700");
        if plan.keeps_runtime() {
            text.set("RuntimeDirectoryPreserve", "restart");
        }
    }
    if let Some(dir) = &places.logs {
        text.group("For the log.")
            .set("LogsDirectory", text::word(dir))
            .set("LogsDirectoryMode", "0750");
    }
    text.group("For files of the program itself, which finds the path in STATE_DIRECTORY:")
        .comment(&format!("StateDirectory={}", text::word(&plan.settings.name)));
}

fn identity(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    let user = text::user(&plan.settings.name);
    if plan.drops() {
        // There must be no line `User=root`: with it systemd 257 removes CAP_SETUID.
        text.group(
            "Starts as root: the program itself drops the privileges of its workers (`user`\n\
             and related keys). That user must not be able to write to the program's file.",
        );
    } else if places.writes.is_empty() && !places.in_tmp {
        text.group("Run as a transient user. To run as a permanent one, set this instead:")
            .comment(&format!("User={user}"))
            .set("DynamicUser", "yes");
    } else {
        text.group(&format!(
            "This user must exist (`useradd --system {user}`) and own what the service \
             writes to."
        ))
        .set("User", user);
    }
    if !places.writes.is_empty() {
        let dirs: Vec<String> = places.writes.iter().map(|dir| text::path(dir)).collect();
        text.group("These directories must exist and be writable by the service.")
            .set("ReadWritePaths", dirs.join(" "));
    }
    let capabilities = plan.capabilities();
    let names: Vec<&str> = capabilities.keys().map(String::as_str).collect();
    if names.is_empty() {
        text.group("No capabilities, and no way to gain any.").set("CapabilityBoundingSet", "");
    } else {
        let what: SortedSet<&str> = capabilities.values().copied().collect();
        let what = what.into_iter().collect::<Vec<_>>().join(", ");
        text.group(&format!("Only the capabilities needed for {what}."))
            .set("CapabilityBoundingSet", names.join(" "));
        if !plan.drops() {
            text.set("AmbientCapabilities", names.join(" "));
        }
    }
    text.set("NoNewPrivileges", "yes");
}

fn sandbox(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    text.group(
        "The file system is read-only. List other paths that the program writes to in \
         ReadWritePaths=.",
    )
    .set("ProtectSystem", "strict");
    if places.in_home {
        text.comment(
            "The service uses a file in a home directory; /usr/local or /etc would be safer.",
        )
        .set("ProtectHome", "read-only");
    } else {
        text.set("ProtectHome", "yes");
    }
    if places.in_tmp {
        text.comment(
            "No PrivateTmp=: the service uses a file in a shared directory for temporary files.",
        );
    } else {
        text.set("PrivateTmp", "yes");
    }
    text.set("PrivateDevices", "yes");
    // Only where all processes have one user: with ProtectProc=invisible a supervisor that is root, without
    // CAP_SYS_PTRACE, would not see its workers in /proc.
    if !plan.drops() {
        text.set("ProtectProc", "invisible");
    }
    text.group("No access to kernel and hardware settings.");
    for key in ["Tunables", "Modules", "Logs"] {
        text.set(&format!("ProtectKernel{key}"), "yes");
    }
    for key in ["ProtectControlGroups", "ProtectClock", "ProtectHostname"] {
        text.set(key, "yes");
    }
    for key in ["RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"] {
        text.set(key, "yes");
    }
    text.set("LockPersonality", "yes").set("RemoveIPC", "yes");
    text.group(
        "Address families to listen on and connect to. getifaddrs(3) needs AF_NETLINK, too.",
    )
    .set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6");
    text.group(
        "Remove this if the program generates code at run time (WebAssembly, LuaJIT, the JIT of \
         PCRE).",
    )
    .set("MemoryDenyWriteExecute", "yes");
    let chroot = if plan.settings.chroot.is_some() { " chroot" } else { "" };
    text.group("Only system calls that services commonly need; others fail with EPERM.")
        .set("SystemCallArchitectures", "native")
        .set("SystemCallFilter", format_args!("@system-service{chroot}"))
        .set("SystemCallErrorNumber", "EPERM");
}

/// The time limit of a start or a reload: both are bounded by `TimeoutStartSec=`.
fn start_limit(plan: &UnitPlan) -> Duration {
    let settings = &plan.settings;
    let reload = match settings.graceful_restart {
        true if settings.exclusive => {
            settings.confirm_window + settings.drain_timeout + settings.kill_timeout
        }
        true => settings.confirm_window,
        false => Duration::ZERO,
    };
    settings.ready_timeout + reload + TIMEOUT_MARGIN
}

/// The time limit of a stop.
fn stop_limit(plan: &UnitPlan) -> Duration {
    let settings = &plan.settings;
    settings.lame_duck + settings.drain_timeout + settings.kill_timeout + TIMEOUT_MARGIN
}
