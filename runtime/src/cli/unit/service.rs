//! The text of the `.service` unit.

use std::time::Duration;

use super::plan::{ServicePlaces, UnitPlan};
use super::text::{self, Text};
use crate::config::{LOCATION, RestartPolicy};
use crate::sorted::SortedSet;

/// What each of systemd's time limits has beyond ours: the daemon meets its own first, and reports the
/// reason. With a smaller one systemd could kill the daemon before it has.
const MARGIN: Duration = Duration::from_secs(10);

/// The number of starts that may fail in succession before systemd gives up.
const BURST: u32 = 5;

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
    text.group("So many starts may fail one after the other, each for as long as one may take.")
        .set("StartLimitBurst", BURST)
        .set("StartLimitIntervalSec", u64::from(BURST) * one);
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
            "The program tells when it serves, reloads and stops (sd_notify(3)). For systemd 253 or later:\n\
             an older one does not know this type, and does not wait.",
        )
        .set("Type", "notify-reload");
    } else {
        text.comment("The program tells when it serves, reloads and stops (sd_notify(3)).")
            .set("Type", "notify");
    }
    text.set("NotifyAccess", "main").set("ExecStart", run);
    if !sockets.is_empty() {
        text.set("Sockets", sockets.join(" "));
    }
    if !settings.graceful_restart {
        text.group(
            "Nothing to reload: the program has no supervisor that could replace its code. With\n\
             `graceful_restart` in its attribute there would be an ExecReload=.",
        );
    } else if plan.notify_reload {
        text.group(
            "A reload replaces the code by what is on disk. It is not told that it failed: the old code\n\
             goes on then, and `systemctl status` says why.",
        )
        .set("ReloadSignal", "SIGHUP");
    } else {
        text.group(
            "A reload replaces the code by what is on disk. Where that does not serve, the reload fails\n\
             with the reason, and the old code goes on.",
        )
        .set("ExecReload", format!("{image} restart --no-wait{}", options(&LOCATION)));
    }
    if !plan.variables.is_empty() {
        text.group("Configuration. Everybody can read this file: secrets belong elsewhere (systemd.exec(5)).");
        for (name, value) in &plan.variables {
            // The assignment is quoted as a whole, the form that systemd.exec(5) shows.
            text.set("Environment", text::word(&format!("{name}={value}")));
        }
    }
}

fn ends(text: &mut Text, plan: &UnitPlan) {
    let settings = &plan.settings;
    text.group("Longer than `ready_timeout`, and for a reload than the confirm window behind it.")
        .set("TimeoutStartSec", text::seconds(start_limit(plan)));
    text.group("Longer than `lame_duck`, `drain_timeout` and `kill_timeout` together.")
        .set("TimeoutStopSec", text::seconds(stop_limit(plan)));
    if settings.orphan_grace.is_zero() {
        text.group(
            "Only the main process gets the signal to stop; what is left in the end is killed.",
        )
        .set("KillMode", "mixed");
    } else {
        text.group("Workers outlive a supervisor that is killed (`orphan_grace`).")
            .set("KillMode", "process");
    }
    if settings.graceful_restart {
        text.group(
            "A worker that is killed for memory is replaced, and nothing else ends with it.",
        )
        .set("OOMPolicy", "continue");
    }
    // While a worker hangs, the supervisor sends no keep-alive until the worker is replaced: the limit has to
    // cover the replacement.
    let watchdog = match settings.watchdog {
        Duration::ZERO => Duration::from_secs(30),
        _ => settings.kill_timeout + settings.ready_timeout + settings.backoff_min + MARGIN,
    };
    text.group("A main process that is silent for so long is replaced.")
        .set("WatchdogSec", text::seconds(watchdog));
    match (settings.graceful_restart, settings.restart) {
        (true, RestartPolicy::No) => {
            text.group("As `restart` says.").set("Restart", "no");
        }
        _ => {
            text.group("Not after a wrong configuration, which stays wrong.")
                .set("Restart", "on-failure")
                .set("RestartSec", 1)
                .set("RestartPreventExitStatus", 78);
        }
    }
}

fn resources(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    text.group("A connection is a descriptor, and a file may be one.").set("LimitNOFILE", 65536);
    if !plan.settings.listen.is_empty() {
        let listeners = plan.settings.listen.values().map(|listener| listener.addrs().len());
        let most = listeners.sum::<usize>() + SPARE_DESCRIPTORS;
        text.group(
            "Listeners stay open over `systemctl restart`: systemd keeps so many. It says so itself from\n\
             254 on.",
        )
        .set("FileDescriptorStoreMax", most)
        .set("Environment", format_args!("FDSTORE={most}"))
        .set("NonBlocking", "yes");
    }
    if let Some(dir) = &places.runtime {
        text.group("For pidfile and control socket.")
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
    text.group("For files of the program's own, which finds the path in STATE_DIRECTORY:")
        .comment(&format!("StateDirectory={}", text::word(&plan.settings.name)));
}

fn identity(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    let user = text::user(&plan.settings.name);
    if plan.drops() {
        // There must be no line `User=root`: with it systemd 257 removes CAP_SETUID.
        text.group(
            "Started as root: the program itself makes its worker what `user` and its like say. The image\n\
             must not be writable for that user.",
        );
    } else if places.writes.is_empty() && !places.in_tmp {
        text.group("A user of its own for as long as it runs. For one that stays:")
            .comment(&format!("User={user}"))
            .set("DynamicUser", "yes");
    } else {
        text.group(&format!(
            "A user that has to exist (`useradd --system {user}`), as somebody has to own what it writes to."
        ))
        .set("User", user);
    }
    if !places.writes.is_empty() {
        let dirs: Vec<String> = places.writes.iter().map(|dir| text::path(dir)).collect();
        text.group("These have to exist, and it has to be able to write there.")
            .set("ReadWritePaths", dirs.join(" "));
    }
    let capabilities = plan.capabilities();
    let names: Vec<&str> = capabilities.keys().map(String::as_str).collect();
    if names.is_empty() {
        text.group("No privileges, and none to be had.").set("CapabilityBoundingSet", "");
    } else {
        let what: SortedSet<&str> = capabilities.values().copied().collect();
        let what = what.into_iter().collect::<Vec<_>>().join(", ");
        text.group(&format!("Privileges for {what}, and no others."))
            .set("CapabilityBoundingSet", names.join(" "));
        if !plan.drops() {
            text.set("AmbientCapabilities", names.join(" "));
        }
    }
    text.set("NoNewPrivileges", "yes");
}

fn sandbox(text: &mut Text, plan: &UnitPlan, places: &ServicePlaces) {
    text.group("The file system is there to be read. What else it writes to: ReadWritePaths=")
        .set("ProtectSystem", "strict");
    if places.in_home {
        text.comment("Something of it lies in a home directory: better in /usr/local or /etc.")
            .set("ProtectHome", "read-only");
    } else {
        text.set("ProtectHome", "yes");
    }
    if places.in_tmp {
        text.comment(
            "Something of it lies in a directory for temporary files, which it has to share.",
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
    text.group("The machine is not its affair.");
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
        "What it listens on and connects to. To list interfaces (getifaddrs(3)): AF_NETLINK, too.",
    )
    .set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6");
    text.group("Not for a program that compiles at run time: WebAssembly, Lua, the JIT of PCRE.")
        .set("MemoryDenyWriteExecute", "yes");
    let chroot = if plan.settings.chroot.is_some() { " chroot" } else { "" };
    text.group("System calls of services. Others fail.")
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
    settings.ready_timeout + reload + MARGIN
}

/// The time limit of a stop.
fn stop_limit(plan: &UnitPlan) -> Duration {
    let settings = &plan.settings;
    settings.lame_duck + settings.drain_timeout + settings.kill_timeout + MARGIN
}
