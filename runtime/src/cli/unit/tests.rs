//! Tests of the generated units. That systemd accepts them is tested in tests/tests/p8_systemd.rs.

use crate::config::tests::place::{Keys, Place};
use crate::spec::Literal;

use super::*;
use crate::program::NotConfiguring;

/// A program with these keys, for which a unit is asked for in `/start`.
fn place(keys: Keys) -> Place {
    at_start(Place::new(keys))
}

fn solo(keys: Keys) -> Place {
    at_start(Place::solo(keys))
}

fn at_start(mut place: Place) -> Place {
    place.around.start_dir = "/start".into();
    place
}

fn plan(place: &Place) -> UnitPlan {
    let environment = ServiceEnvironment::new(&place.spec, &place.around, &[]).unwrap();
    let around = Surroundings { vars: environment.vars, uid: 0, ..place.around.clone() };
    let configuration = Configuration::load(&place.spec, &around, &NotConfiguring).unwrap();
    UnitPlan {
        settings: configuration.settings.clone(),
        image: around.exe.clone(),
        variables: configuration.variables(&environment.of_unit),
        environment_files: environment.files,
        overrides: configuration.options(&around.overrides),
        arguments: vec![],
        sockets: false,
        notify_reload: false,
    }
}

const HTTP: Keys = &[("listen.http", Literal::Str("0.0.0.0:8080"))];

/// The text of the service.
fn service(plan: &UnitPlan) -> String {
    units(plan).unwrap().remove(0).text
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|known| known == *line), "no {line} in\n{text}");
    }
}

#[track_caller]
fn has_not(text: &str, keys: &[&str]) {
    for key in keys {
        assert!(!text.lines().any(|line| line.starts_with(key)), "{key} in\n{text}");
    }
}

#[test]
fn plain_service_has_defaults() {
    let text = service(&plan(&place(HTTP)));
    has(
        &text,
        &[
            "Description=hello",
            "After=network.target",
            "Type=notify",
            "NotifyAccess=main",
            "ExecStart=/usr/bin/hello run",
            "ExecReload=/usr/bin/hello restart --no-wait",
            "TimeoutStartSec=72",
            "TimeoutStopSec=45",
            "StartLimitIntervalSec=365",
            "KillMode=mixed",
            "WatchdogSec=30",
            "Restart=on-failure",
            "RuntimeDirectory=hello",
            "DynamicUser=yes",
            "CapabilityBoundingSet=",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "OOMPolicy=continue",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
            "WantedBy=multi-user.target",
        ],
    );
    let absent =
        ["Environment=DAEMON", "AmbientCapabilities", "ReadWritePaths", "LogsDirectory", "User="];
    has_not(&text, &absent);
}

/// The environment of the caller of `unit` is not the environment of the service.
#[test]
fn callers_directories_are_not_used() {
    let place = place(HTTP).var("XDG_RUNTIME_DIR", "/run/user/1").var("LOGS_DIRECTORY", "/l");
    has(&service(&plan(&place)), &["RuntimeDirectory=hello"]);
}

#[test]
fn listeners_determine_capabilities() {
    const LOW: Keys = &[
        ("listen.http", Literal::Str("[::]:80")),
        ("listen.control", Literal::Str("unix:/run/hello/control")),
        ("listen.control.group", Literal::Str("staff")),
    ];
    let mut plan = plan(&place(LOW));
    has(
        &service(&plan),
        &[
            "CapabilityBoundingSet=CAP_CHOWN CAP_NET_BIND_SERVICE",
            "AmbientCapabilities=CAP_CHOWN CAP_NET_BIND_SERVICE",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
            "RuntimeDirectoryPreserve=restart",
        ],
    );
    plan.sockets = true;
    has(&service(&plan), &["CapabilityBoundingSet="]);
    has_not(&service(&plan), &["AmbientCapabilities", "RuntimeDirectoryPreserve"]);
}

/// A program that drops privileges itself is started with them.
#[test]
fn program_that_changes_users_is_started_as_root() {
    let mut plan = plan(&place(HTTP));
    plan.settings.user = Some("www-data".into());
    plan.settings.nice = Some(-5);
    let privileges = "CAP_KILL CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_NICE";
    has(&service(&plan), &[&format!("CapabilityBoundingSet={privileges}"), "NoNewPrivileges=yes"]);
    has_not(&service(&plan), &["DynamicUser", "User", "AmbientCapabilities", "ProtectProc"]);
    plan.settings.user = None;
    plan.settings.capabilities = Some(vec!["net_raw".into()]);
    has(&service(&plan), &["DynamicUser=yes", "AmbientCapabilities=CAP_NET_RAW"]);
    plan.settings.chroot = Some("/srv/root".into());
    has(&service(&plan), &["SystemCallFilter=@system-service chroot"]);
}

#[test]
fn paths_outside_standard_directories_need_a_user() {
    const PATHS: Keys = &[
        ("log", Literal::Str("/srv/log/hello.log")),
        ("listen.http", Literal::Str("unix:/run/web/hello.sock")),
    ];
    let mut plan = plan(&place(PATHS));
    has(&service(&plan), &["User=hello", "ReadWritePaths=/run/web /srv/log"]);
    has_not(&service(&plan), &["DynamicUser"]);
    plan.sockets = true;
    plan.settings.log = Some("/var/log/hello/a.log".into());
    has(&service(&plan), &["DynamicUser=yes", "LogsDirectory=hello"]);
    plan.settings.log = Some("/var/log/hello.log".into());
    has(&service(&plan), &["User=hello", "ReadWritePaths=/var/log"]);
}

#[test]
fn image_in_home_or_tmp_stays_visible() {
    let mut plan = plan(&place(HTTP));
    plan.image = "/home/me/hello".into();
    has(&service(&plan), &["ProtectHome=read-only", "DynamicUser=yes", "PrivateTmp=yes"]);
    plan.image = "/tmp/hello".into();
    has(&service(&plan), &["ProtectHome=yes", "User=hello"]);
    has_not(&service(&plan), &["PrivateTmp", "DynamicUser"]);
}

#[test]
fn configuration_is_carried_over_with_absolute_paths() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hello.toml"), "drain_timeout = '90s'").unwrap();
    let mut place = place(HTTP)
        .set("config=hello.toml")
        .var("DAEMON_LOG", "log/a.log")
        .var("DAEMON_LISTEN_HTTP", "unix:http.sock")
        .var("DAEMON_APP__WORDS", "a 100% \"b\"")
        .var("DAEMON_PORT_80_TCP", "tcp://10.0.0.1:80")
        .set("pidfile=a.pid")
        .set("app.x=$y");
    place.around.start_dir = dir.path().to_owned();
    let text = service(&plan(&place));
    let dir = dir.path().display();
    has(
        &text,
        &[
            "Environment=\"DAEMON_APP__WORDS=a 100%% \\\"b\\\"\"",
            &format!("Environment=DAEMON_LOG={dir}/log/a.log"),
            &format!("Environment=DAEMON_LISTEN_HTTP=unix:{dir}/http.sock"),
            &format!(
                "ExecStart=/usr/bin/hello run --set config={dir}/hello.toml \
                 --set pidfile={dir}/a.pid --set \"app.x=$$y\""
            ),
            &format!("ExecReload=/usr/bin/hello restart --no-wait --set pidfile={dir}/a.pid"),
            "TimeoutStopSec=105",
        ],
    );
    has_not(&text, &["Environment=DAEMON_PORT"]);
}

#[test]
fn timeouts_and_policies_follow_settings() {
    let keys: Keys = &[
        ("exclusive", Literal::Bool(true)),
        ("watchdog", Literal::Str("5s")),
        ("restart", Literal::Str("no")),
        ("orphan_grace", Literal::Str("1m")),
        ("kill_timeout", Literal::Str("500ms")),
    ];
    has(
        &service(&plan(&place(keys))),
        &[
            "TimeoutStartSec=103",
            "TimeoutStopSec=41",
            "WatchdogSec=71",
            "Restart=no",
            "KillMode=process",
            "RuntimeDirectoryPreserve=restart",
        ],
    );
}

#[test]
fn solo_daemon_has_no_reload() {
    let mut plan = plan(&solo(HTTP));
    let text = service(&plan);
    has(&text, &["Type=notify", "Restart=on-failure", "TimeoutStartSec=70"]);
    has_not(&text, &["ExecReload", "ReloadSignal"]);
    plan.notify_reload = true;
    assert_eq!(units(&plan).unwrap_err().exit_code(), 2);
}

#[test]
fn notify_reload_replaces_exec_reload() {
    let mut plan = plan(&place(HTTP));
    plan.notify_reload = true;
    has(&service(&plan), &["Type=notify-reload", "ReloadSignal=SIGHUP"]);
    has_not(&service(&plan), &["ExecReload"]);
}

#[test]
fn each_listener_gets_a_socket_unit() {
    const BOTH: Keys = &[
        ("name", Literal::Str("my app")),
        ("listen.http", Literal::Str("[::]:80")),
        ("listen.http.v6only", Literal::Bool(false)),
        ("listen.control", Literal::Str("unix:/run/a b%")),
        ("listen.control.mode", Literal::Str("0660")),
        ("listen.control.user", Literal::Str("www-data")),
        ("listen.control.backlog", Literal::Int(7)),
    ];
    let mut plan = plan(&place(BOTH));
    plan.sockets = true;
    let units = units(&plan).unwrap();
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    let sockets = "my\\x20app-control.socket my\\x20app-http.socket";
    assert_eq!(names.join(" "), format!("my\\x20app.service {sockets}"));
    let lines = ["Requires", "After", "Sockets"].map(|key| format!("{key}={sockets}"));
    has(&units[0].text, &lines.each_ref().map(String::as_str));
    assert_eq!(
        units[1].text,
        "[Unit]\nDescription=my app, listener control\n\n[Socket]\n\
         # systemd holds this socket; connections queue in it while the service is not running.\n\
         ListenStream=/run/a b%%\nFileDescriptorName=control\nService=my\\x20app.service\nBacklog=7\n\n\
         # Access, as set by `mode`, `user` and `group` of the listener.\n\
         SocketMode=0660\nSocketUser=www-data\nRemoveOnStop=yes\n\n\
         [Install]\nWantedBy=sockets.target\n"
    );
    has(&units[2].text, &["ListenStream=[::]:80", "BindIPv6Only=both", "Backlog=4096"]);
}

#[test]
fn rejects_unsupported_settings() {
    let refused = |place: Place, change: &dyn Fn(&mut UnitPlan)| {
        let mut plan = plan(&place);
        change(&mut plan);
        units(&plan).unwrap_err().to_string()
    };
    let sockets = |plan: &mut UnitPlan| plan.sockets = true;
    assert!(refused(place(&[]), &sockets).contains("needs a listener"));
    let port = place(HTTP).var("DAEMON_LISTEN_HTTP", "127.0.0.1:0");
    assert!(refused(port, &sockets).contains("`http` is 0"));
    let quotes = |plan: &mut UnitPlan| plan.image = "/opt/it's/hello".into();
    assert!(refused(place(HTTP), &quotes).contains("rename /opt/it's/hello"));
}

#[test]
fn image_path_keeps_links_but_not_parents() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
    std::fs::create_dir_all(at("a/b")).unwrap();
    std::os::unix::fs::symlink("b", at("a/current")).unwrap();
    assert_eq!(without_parents(&at("a/./current/hello")).unwrap(), at("a/current/hello"));
    assert_eq!(without_parents(&at("a/b/../current/hello")).unwrap(), at("a/current/hello"));
    assert!(without_parents(&at("none/../hello")).is_err());
}

/// The book shows the unit as it is printed. `UPDATE_BOOK=1 cargo test -p unbroken --lib book_shows` updates
/// the book.
#[test]
fn book_shows_the_printed_unit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/src/systemd.md");
    let book = std::fs::read_to_string(path).unwrap();
    let (before, rest) = book.split_once("```text\n").unwrap();
    let (shown, after) = rest.split_once("```\n").unwrap();
    let printed = printed(&units(&plan(&place(HTTP))).unwrap());
    if std::env::var_os("UPDATE_BOOK").is_some() {
        std::fs::write(path, format!("{before}```text\n{printed}```\n{after}")).unwrap();
        return;
    }
    assert_eq!(shown, printed);
}
