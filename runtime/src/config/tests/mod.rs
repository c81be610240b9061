//! The rules, from layers to settings, and the sentences that mistakes are answered with.

mod app;
mod app_buffered;
mod mistakes;
pub(crate) mod place;
mod report;
mod secrets;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use unbroken_schema::{DEFAULT_PREFIX, Fallback, HTTP_FIELDS, KEYS, Kind, LISTENER_FIELDS, Needs};

use self::place::{Keys, Place};
use super::*;
use crate::json::{self, FromJson};
use crate::program::NotConfiguring;
use crate::spec::Literal;

fn source<'a>(configuration: &'a Configuration, key: &str) -> &'a str {
    configuration.sources.get(key).map_or("none", String::as_str)
}

#[test]
fn defaults_hold_where_nothing_is_said() {
    let loaded = Place::new(&[]).load();
    let Settings {
        name,
        pidfile,
        runtime_dir,
        detach,
        graceful_restart,
        env_prefix,
        listen,
        ready,
        ready_timeout,
        drain_timeout,
        kill_timeout,
        lame_duck,
        confirm_window,
        exclusive,
        watchdog,
        orphan_grace,
        handoff,
        restart,
        backoff_min,
        backoff_max,
        start_limit_burst,
        start_limit_interval,
        umask,
        workdir,
        user,
        group,
        groups,
        chroot,
        no_new_privileges,
        capabilities,
        limits,
        oom_score_adj,
        nice,
        log,
        log_mode,
        log_format,
        log_level,
        detached_log,
        env_file,
        config,
        exe,
        probe,
    } = loaded.settings.clone();
    assert_eq!(name, "hello");
    assert_eq!(pidfile, Path::new("/tmp/hello-1000/hello.pid"));
    assert_eq!(runtime_dir, Path::new("/tmp/hello-1000"));
    assert!(!detach && graceful_restart && listen.is_empty());
    assert_eq!((ready, env_prefix.as_str()), (Ready::Auto, "DAEMON"));
    assert_eq!(ready_timeout, Duration::from_secs(60));
    assert_eq!(drain_timeout, Duration::from_secs(30));
    assert_eq!(kill_timeout, Duration::from_secs(5));
    assert_eq!(confirm_window, Duration::from_secs(2));
    assert!(handoff && !exclusive && watchdog.is_zero() && orphan_grace.is_zero());
    assert_eq!(restart, RestartPolicy::OnFailure);
    assert_eq!(backoff_min, Duration::from_millis(100));
    assert_eq!(backoff_max, Duration::from_secs(30));
    assert_eq!(start_limit_burst, 5);
    assert_eq!(start_limit_interval, Duration::from_secs(60));
    assert_eq!((umask, workdir, log, config, exe), (None, None, None, None, None));
    assert_eq!((user, group, groups, chroot), (None, None, None, None));
    assert_eq!((no_new_privileges, capabilities, oom_score_adj, nice), (None, None, None, None));
    assert!(limits.is_empty() && env_file.is_none());
    assert_eq!((log_mode, log_format, log_level), (0o640, LogFormat::None, LogLevel::Info));
    assert_eq!((lame_duck, probe), (Duration::ZERO, None));
    assert_eq!(detached_log, Path::new("/tmp/hello-1000/hello.log"));
    for key in KEYS {
        assert_eq!(source(&loaded, key.name), "default", "{}", key.name);
    }
    assert_eq!(source(&loaded, "graceful_restart"), "attribute at src/main.rs:3");
    assert_eq!(loaded.app, serde_json::json!({}));
}

#[test]
fn later_layers_win() {
    let mut place = Place::new(&[("drain_timeout", Literal::Str("1s"))]);
    let drain = |place: &Place| {
        let loaded = place.load();
        let source = place.short(source(&loaded, "drain_timeout"));
        (loaded.settings.drain_timeout.as_secs(), source)
    };
    assert_eq!(drain(&place), (1, "attribute at src/main.rs:3".into()));
    place = place.file("drain_timeout = '2s'");
    assert_eq!(drain(&place), (2, "FILE: drain_timeout".into()));
    place = place.var("DAEMON_DRAIN_TIMEOUT", "3s");
    assert_eq!(drain(&place), (3, "DAEMON_DRAIN_TIMEOUT".into()));
    place = place.set("drain_timeout=4s");
    assert_eq!(drain(&place), (4, "--set drain_timeout".into()));
    place = place.set("drain_timeout=5s");
    assert_eq!(drain(&place), (5, "--set drain_timeout".into()));
}

#[test]
fn the_file_is_named_by_the_highest_layer() {
    let place = Place::new(&[("config", Literal::Str("a.toml"))]);
    for (name, text) in [("a.toml", "name='a'"), ("b.toml", "name='b'"), ("c.toml", "name='c'")] {
        fs::write(place.dir.path().join(name), text).unwrap();
    }
    let loaded = place.load();
    assert_eq!(loaded.settings.name, "a");
    assert_eq!(loaded.settings.config, Some(place.dir.path().join("a.toml")));
    assert_eq!(source(&loaded, "config"), "attribute at src/main.rs:3");

    let place = place.var("DAEMON_CONFIG", "b.toml");
    assert_eq!(place.load().settings.name, "b");
    let place = place.set("config=c.toml");
    let loaded = place.load();
    assert_eq!(loaded.settings.name, "c");
    assert_eq!(source(&loaded, "config"), "--set config");
}

#[test]
fn every_key_can_be_set_by_every_layer() {
    const VALUES: Keys = &[
        ("name", Literal::Str("x")),
        ("runtime_dir", Literal::Str("/r")),
        ("pidfile", Literal::Str("/p/x.pid")),
        ("detach", Literal::Bool(true)),
        ("ready", Literal::Str("manual")),
        ("ready_timeout", Literal::Str("1m 1s")),
        ("drain_timeout", Literal::Str("1m 2s")),
        ("kill_timeout", Literal::Str("1m 3s")),
        ("lame_duck", Literal::Str("4s")),
        ("confirm_window", Literal::Str("1m 4s")),
        ("exclusive", Literal::Bool(true)),
        ("watchdog", Literal::Str("1m 9s")),
        ("orphan_grace", Literal::Str("1m 10s")),
        ("handoff", Literal::Bool(false)),
        ("restart", Literal::Str("always")),
        ("backoff_min", Literal::Str("1m 5s")),
        ("backoff_max", Literal::Str("1m 6s")),
        ("start_limit_burst", Literal::Int(7)),
        ("start_limit_interval", Literal::Str("1m 8s")),
        ("umask", Literal::Int(0o27)),
        ("workdir", Literal::Str("/w")),
        ("user", Literal::Str("www")),
        ("group", Literal::Str("33")),
        ("groups", Literal::Str("adm, 7")),
        ("chroot", Literal::Str("/c")),
        ("no_new_privileges", Literal::Bool(false)),
        ("capabilities", Literal::Str("net_bind_service, CAP_CHOWN")),
        ("limits.nofile", Literal::Str("1024:unlimited")),
        ("limits.core", Literal::Int(0)),
        ("oom_score_adj", Literal::Int(-7)),
        ("nice", Literal::Int(-5)),
        ("log", Literal::Str("/l/x.log")),
        ("log_mode", Literal::Int(0o600)),
        ("log_format", Literal::Str(if cfg!(feature = "log") { "json" } else { "none" })),
        ("log_level", Literal::Str("debug")),
        ("env_file", Literal::Str("-/no/such.env")),
        ("exe", Literal::Str("/e")),
        ("probe", Literal::Str("127.0.0.1:8086")),
        ("listen.http", Literal::Str("unix:/s.sock")),
        ("listen.http.backlog", Literal::Int(16)),
        ("listen.http.mode", Literal::Int(0o660)),
        ("listen.http.user", Literal::Str("www")),
        ("listen.http.group", Literal::Str("33")),
        ("listen.six.addr", Literal::Str("[::]:80")),
        ("listen.six.v6only", Literal::Bool(false)),
    ];
    let text = |key: &str, literal: &Literal| match literal {
        Literal::Str(text) => (*text).to_owned(),
        Literal::Int(n) if key.ends_with("mask") || key.ends_with("mode") => format!("{n:04o}"),
        Literal::Int(n) => n.to_string(),
        Literal::Bool(flag) => flag.to_string(),
        Literal::List(items) => items.join(","),
    };
    for key in KEYS.iter().filter(|k| k.name != "config") {
        assert!(VALUES.iter().any(|(name, _)| *name == key.name), "{}", key.name);
    }

    let attribute = Place::new(VALUES).load();
    let mut line = Place::new(&[]);
    let mut vars = Place::new(&[]);
    let mut toml = String::new();
    for (key, literal) in VALUES {
        let value = text(key, literal);
        line = line.set(&format!("{key}={value}"));
        let path: Vec<&str> = key.split('.').collect();
        vars = vars.var(&env::Prefix::new(DEFAULT_PREFIX).variable(&path), &value);
        // A dotted key cannot both be a string and a table.
        let key = if *key == "listen.http" { "listen.http.addr" } else { key };
        match literal {
            Literal::Str(_) => toml += &format!("{key} = {value:?}\n"),
            Literal::Int(n) if *n > 0o20 => toml += &format!("{key} = 0o{n:o}\n"),
            _ => toml += &format!("{key} = {value}\n"),
        }
    }
    let file = Place::new(&[]).file(&toml);
    let file = Configuration {
        settings: Settings { config: None, ..file.load().settings },
        ..file.load()
    };
    for other in [line.load(), vars.load(), file] {
        assert_eq!(attribute.settings, other.settings);
        assert_eq!(attribute.sources.len(), other.sources.len());
    }
    assert_eq!(attribute.settings.umask, Some(0o27));
    assert_eq!(attribute.settings.listen["http"].mode, Some(0o660));
    assert!(!attribute.settings.listen["six"].v6only);
}

#[test]
fn every_choice_of_the_schema_has_a_setting() {
    for key in KEYS {
        let Kind::Choice(words) = key.kind else { continue };
        for word in words.iter().filter(|_| key.name != "log_format" || cfg!(feature = "log")) {
            let settings = Place::new(&[]).set(&format!("{}={word}", key.name)).load().settings;
            assert_eq!(settings.json()[key.name], **word, "{}", key.name);
        }
    }
}

#[test]
fn a_list_of_the_attribute_is_not_split() {
    let place = Place::new(&[
        ("env_file", Literal::List(&["-/no/such,file", "-/other"])),
        ("listen.http", Literal::List(&["unix:/a,b.sock", "127.0.0.1:80"])),
        ("groups", Literal::List(&[])),
    ]);
    let settings = place.load().settings;
    let files = settings.env_file.unwrap();
    assert_eq!(files[0].path, Path::new("/no/such,file"));
    assert_eq!(files.len(), 2);
    assert_eq!(settings.listen["http"].addr, Address::Unix("/a,b.sock".into()));
    assert_eq!(settings.groups, Some(vec![]));
}

#[test]
fn a_listener_as_text_and_as_table_is_one() {
    const HTTP: Keys = &[("listen.http", Literal::Str("127.0.0.1:80"))];
    let place = Place::new(HTTP).file("[listen.http]\nbacklog = 7\n[listen]\nother = '[::1]:81'");
    let loaded = place.load();
    let http = &loaded.settings.listen["http"];
    assert_eq!(
        (http.addr.to_string().as_str(), http.backlog, http.v6only),
        ("127.0.0.1:80", 7, true)
    );
    assert_eq!(source(&loaded, "listen.http"), "attribute at src/main.rs:3");
    assert_eq!(place.short(source(&loaded, "listen.http.backlog")), "FILE: listen.http.backlog");
    assert_eq!(place.short(source(&loaded, "listen.other")), "FILE: listen.other");
    assert_eq!(loaded.settings.listen["other"].backlog, 4096);

    let place =
        Place::new(HTTP).file("listen.http.backlog = 7").var("DAEMON_LISTEN_HTTP", "0.0.0.0:81");
    let loaded = place.load();
    assert_eq!(loaded.settings.listen["http"].addr.to_string(), "0.0.0.0:81");
    assert_eq!(loaded.settings.listen["http"].backlog, 7);
    assert_eq!(source(&loaded, "listen.http"), "DAEMON_LISTEN_HTTP");
}

#[test]
fn variables_reach_listeners_with_dashes() {
    let place = Place::new(&[("listen.my-api", Literal::Str("127.0.0.1:80"))])
        .var("DAEMON_LISTEN_MY_API", "127.0.0.1:81")
        .var("DAEMON_LISTEN_MY_API__BACKLOG", "9");
    let listen = place.load().settings.listen;
    assert_eq!(listen.len(), 1);
    assert_eq!(
        (listen["my-api"].addr.to_string().as_str(), listen["my-api"].backlog),
        ("127.0.0.1:81", 9)
    );
}

#[test]
fn a_moved_listener_leaves_behind_what_was_said_of_its_old_address() {
    const UNIX: Keys = &[
        ("listen.http", Literal::Str("unix:/s.sock")),
        ("listen.http.mode", Literal::Int(0o660)),
        ("listen.http.user", Literal::Str("www")),
    ];
    let loaded = Place::new(UNIX).var("DAEMON_LISTEN_HTTP", "127.0.0.1:80").load();
    let http = &loaded.settings.listen["http"];
    assert_eq!((http.mode, http.user.clone()), (None, None));
    assert_eq!(source(&loaded, "listen.http.mode"), "default");
}

#[test]
fn relative_paths_start_at_the_file_or_the_starting_directory() {
    let place = Place::new(&[("pidfile", Literal::Str("./p/x.pid"))])
        .file("log = '../x.log'\nruntime_dir = 'run'\n[listen]\nhttp = 'unix:s.sock'")
        .var("DAEMON_WORKDIR", "w/./v")
        .set("exe=bin/x");
    let dir = place.dir.path();
    let settings = place.load().settings;
    assert_eq!(settings.pidfile, dir.join("p/x.pid"));
    assert_eq!(settings.log, Some(dir.join("conf/../x.log")));
    assert_eq!(settings.detached_log, dir.join("conf/../x.log"));
    assert_eq!(settings.runtime_dir, dir.join("conf/run"));
    assert_eq!(settings.workdir, Some(dir.join("w/v")));
    assert_eq!(settings.exe, Some(dir.join("bin/x")));
    assert_eq!(settings.listen["http"].addr, Address::Unix(dir.join("conf/s.sock")));
}

#[test]
fn the_name_is_the_binarys() {
    let mut place = Place::new(&[]);
    place.spec.bin = None;
    place.around.exe = "/srv/releases/other.bin".into();
    let settings = place.load().settings;
    assert_eq!(settings.name, "other");
    assert_eq!(settings.pidfile, Path::new("/tmp/other-1000/other.pid"));

    let settings = place.set("name=third").load().settings;
    assert_eq!(settings.pidfile, Path::new("/tmp/third-1000/third.pid"));
}

#[test]
fn found_defaults_say_from_what() {
    let place = Place::new(&[]).var("RUNTIME_DIRECTORY", "/run/x:/run/y").var("HOME", "/home/me");
    let loaded = place.load();
    assert_eq!(loaded.settings.pidfile, Path::new("/run/x/hello.pid"));
    assert_eq!(source(&loaded, "runtime_dir"), "default, from RUNTIME_DIRECTORY");
    assert_eq!(loaded.settings.log_path(false), None);
    let log = Path::new("/home/me/.local/state/hello/hello.log");
    assert_eq!(loaded.settings.log_path(true), Some(log));
    let settings = place.set("log=/l").load().settings;
    assert_eq!(settings.log_path(false), Some(Path::new("/l")));
    assert_eq!(settings.log_path(true), Some(Path::new("/l")));
}

#[test]
fn text_forms_of_flags_modes_and_durations() {
    for (text, flag) in [("1", true), ("yes", true), ("TRUE", true), ("off", false), ("0", false)] {
        assert_eq!(Place::new(&[]).set(&format!("detach={text}")).load().settings.detach, flag);
    }
    for (text, mode) in [("0027", 0o27), ("27", 0o27), ("0o27", 0o27), ("0", 0), ("777", 0o777)] {
        assert_eq!(Place::new(&[]).set(&format!("umask={text}")).load().settings.umask, Some(mode));
    }
    for (toml, mode) in [("'0027'", 0o27), ("0o27", 0o27), ("23", 0o27)] {
        assert_eq!(
            Place::new(&[]).file(&format!("umask={toml}")).load().settings.umask,
            Some(mode)
        );
    }
    for (text, millis) in
        [("0", 0), ("0s", 0), ("250ms", 250), ("1m 30s", 90_000), ("1min30s", 90_000)]
    {
        let settings = Place::new(&[]).set(&format!("kill_timeout={text}")).load().settings;
        assert_eq!(settings.kill_timeout, Duration::from_millis(millis), "{text}");
    }
}

#[test]
fn it_travels_as_json() {
    let place = Place::new(&[("listen.http", Literal::Str("unix:/s.sock"))])
        .file("umask = 0o22\n[app]\na = 1\nb = 'x'\nwhen = 2020-01-01")
        .var("DAEMON_APP__C", "3");
    let loaded = place.load();
    let mut json = json::to_value(&loaded).unwrap();
    json["later"] = "field".into();
    json["settings"]["later"] = 1.into();
    assert_eq!(Configuration::read(json.clone()).unwrap(), loaded);
    json["settings"].as_object_mut().unwrap().remove("detached_log");
    json.as_object_mut().unwrap().remove("app");
    assert!(Configuration::read(json).is_ok());
}

#[test]
fn kubernetes_service_links_and_strangers_are_ignored() {
    let place = Place::new(&[])
        .var("DAEMON_PORT", "tcp://10.0.0.1:80")
        .var("DAEMON_PORT_80_TCP_ADDR", "10.0.0.1")
        .var("DAEMON_SERVICE_HOST", "10.0.0.1")
        .var("DAEMONIC", "x")
        .var("MY_DAEMON_NAME", "x");
    let mut place = place;
    place.around.vars.push((OsString::from_vec(vec![0xff]), OsString::from_vec(vec![0xff])));
    place.load();
}

#[test]
fn listener_fields_default_as_the_table_says() {
    let listen = Place::new(&[("listen.a", Literal::Str("[::]:80"))]).load().settings.listen;
    let parsed = |text: &str| unbroken_schema::duration::parse(text).unwrap();
    for field in LISTENER_FIELDS {
        match (field.name, field.default) {
            ("backlog", Fallback::Value(text)) => assert_eq!(text, listen["a"].backlog.to_string()),
            ("v6only", Fallback::Value(text)) => assert_eq!(text, listen["a"].v6only.to_string()),
            (name, Fallback::Value(text)) if HTTP_FIELDS.contains(&name) => {
                let http = json::to_value(&listen["a"].http).unwrap();
                match http[name].as_str() {
                    Some(value) => assert_eq!(parsed(text), parsed(value), "{name}"),
                    None => assert_eq!(text, http[name].to_string(), "{name}"),
                }
            }
            (_, fallback) => assert!(!matches!(fallback, Fallback::Value(_)), "{}", field.name),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_text_of_a_file_panics(text in "\\PC{0,60}", key in 0..19usize) {
        let name = KEYS[key].name;
        for text in [text.clone(), format!("{name} = {text}"), format!("{name} = {text:?}"), format!("[listen]\na = {text:?}")] {
            let place = Place::new(&[]).file(&text);
            let _ = Configuration::load(&place.spec, &place.around, &NotConfiguring).map(|c| (c.text(), c.json()));
        }
    }

    #[test]
    fn no_environment_panics(name in "[A-Z_a-z0-9]{0,24}", value in any::<Vec<u8>>(), key in 0..19usize) {
        let mut place = Place::new(&[]);
        let value = OsString::from_vec(value);
        for name in [name, format!("APP__{key}"), format!("LISTEN_A{key}"), KEYS[key].name.to_uppercase()] {
            place.around.vars.push((format!("DAEMON_{name}").into(), value.clone()));
        }
        let _ = Configuration::load(&place.spec, &place.around, &NotConfiguring).map(|c| (c.text(), c.json()));
    }

    #[test]
    fn no_override_panics(text in "\\PC{0,40}", key in 0..19usize) {
        let place = Place::new(&[]).set(&text).set(&format!("{}={text}", KEYS[key].name)).set(&format!("app.x={text}"));
        if let Ok(loaded) = Configuration::load(&place.spec, &place.around, &NotConfiguring) {
            let json = json::to_vec(&loaded).unwrap();
            prop_assert_eq!(json::from_slice::<Configuration>(&json).unwrap(), loaded);
        }
    }
}
