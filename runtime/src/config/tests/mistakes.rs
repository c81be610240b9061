//! One sentence for each mistake: the key, where it is, and what would do.

use super::*;

const HTTP: Keys = &[("listen.http", Literal::Str("127.0.0.1:80"))];

#[test]
fn wrong_values_name_key_source_and_what_is_allowed() {
    const DURATION: &str = r#"expected a duration such as "30s" or "1m 30s""#;
    const MODE: &str = r#"expected an octal mode from "0000" to "0777", such as "0027""#;
    for (toml, answer) in [
        ("drain_timeout = 'fast'", format!("`drain_timeout` in FILE is \"fast\": {DURATION}")),
        ("drain_timeout = 30", "`drain_timeout` in FILE is 30: expected a duration with its unit, such as \"30s\"".into()),
        ("drain_timeout = 1.5", format!("`drain_timeout` in FILE is 1.5: {DURATION}")),
        ("drain_timeout = ['1s']", format!("`drain_timeout` in FILE is an array: {DURATION}")),
        ("drain_timeout = '2000years'", "`drain_timeout` in FILE is \"2000years\": expected at most 365days".into()),
        ("drain_timeout = 10:00:00", format!("`drain_timeout` in FILE is 10:00:00: {DURATION}")),
        ("ready_timeout = '0s'", "`ready_timeout` in FILE is \"0s\": expected more than 0s".into()),
        ("detach = 'true'", "`detach` in FILE is \"true\": expected true or false".into()),
        ("detach = 1", "`detach` in FILE is 1: expected true or false".into()),
        ("start_limit_burst = 0", "`start_limit_burst` in FILE is 0: expected a whole number from 1 to 4294967295".into()),
        ("start_limit_burst = '5'", "`start_limit_burst` in FILE is \"5\": expected a whole number from 1 to 4294967295".into()),
        ("start_limit_burst = -1", "`start_limit_burst` in FILE is -1: expected a whole number from 1 to 4294967295".into()),
        ("umask = 0o1000", format!("`umask` in FILE is 512: {MODE}")),
        ("umask = '0o1000'", format!("`umask` in FILE is \"0o1000\": {MODE}")),
        ("umask = '+7'", format!("`umask` in FILE is \"+7\": {MODE}")),
        ("umask = '0o'", format!("`umask` in FILE is \"0o\": {MODE}")),
        ("umask = '0789'", format!("`umask` in FILE is \"0789\": {MODE}")),
        ("ready = 'soon'", "`ready` in FILE is \"soon\": expected `auto` or `manual`".into()),
        ("restart = false", "`restart` in FILE is false: expected `no`, `on-failure` or `always`".into()),
        ("log_mode = 640", format!("`log_mode` in FILE is 640: {MODE}")),
        ("log_format = 'xml'", "`log_format` in FILE is \"xml\": expected `none`, `text`, `json`, `journald` or `auto`".into()),
        ("log_level = 'loud'", "`log_level` in FILE is \"loud\": expected `error`, `warn`, `info`, `debug` or `trace`".into()),
        ("log = 5", "`log` in FILE is 5: expected a path".into()),
        ("log = ''", "`log` in FILE is empty: remove it, or give it a value".into()),
        ("name = 'a/b'", "`name` in FILE is \"a/b\": expected at most 64 bytes that can name a file, without `/` and not beginning with `.`".into()),
        ("listen.a = 'example.org:80'", "`listen.a` in FILE is \"example.org:80\": host names are not resolved: expected a literal address such as \"127.0.0.1:80\"".into()),
        ("listen.a.addr = 80", "`listen.a.addr` in FILE is 80: expected an address with its port: \"127.0.0.1:80\", or \"0.0.0.0:80\" for every interface".into()),
        ("listen.a = {addr = '127.0.0.1:80', backlog = 0}", "`listen.a.backlog` in FILE is 0: expected a whole number from 1 to 2147483647".into()),
        ("listen.a = {addr = '127.0.0.1:80', backlog = 2147483648}", "`listen.a.backlog` in FILE is 2147483648: expected a whole number from 1 to 2147483647".into()),
        ("listen.a = ':http'", "`listen.a` in FILE is \":http\": the port is no number from 0 to 65535: expected a literal address such as \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/run/app.sock\"".into()),
        ("restart = 'on_failure'", "`restart` in FILE is \"on_failure\": expected `no`, `on-failure` or `always`: did you mean `on-failure`?".into()),
        ("user = 'a b'", "`user` in FILE is \"a b\": expected a name or a number".into()),
        ("groups = [true]", "`groups` in FILE is an array: expected names or numbers, such as \"adm, ssl-cert\", or \"none\"".into()),
        ("capabilities = ['net_bind_servce']", "`capabilities` in FILE is an array: `net_bind_servce` is no capability: did you mean `net_bind_service`?".into()),
        ("nice = 20", "`nice` in FILE is 20: expected a whole number from -20 to 19".into()),
        ("oom_score_adj = '1'", "`oom_score_adj` in FILE is \"1\": expected a whole number from -1000 to 1000".into()),
        ("limits.nofile = '5:4'", "`limits.nofile` in FILE is \"5:4\": its soft limit is above its hard limit: lower the first number".into()),
        ("limits.core = 'many'", "`limits.core` in FILE is \"many\": expected a limit such as \"4096\", \"1024:4096\" (soft and hard) or \"unlimited\"".into()),
        ("limits.nofiles = 1", "`limits.nofiles` in FILE is not a known key: did you mean `limits.nofile`?".into()),
        ("limits = 1", "`limits` in FILE is not a table of limits: name one below it".into()),
        ("listen.a = {addr = 'unix:/s', user = 'a b'}", "`listen.a.user` in FILE is \"a b\": expected a name or a number".into()),
    ] {
        assert_eq!(Place::new(&[]).file(toml).error(), answer, "{toml}");
    }
    for name in [".hidden", "a\nb", &"n".repeat(65)] {
        assert!(Place::new(&[]).set(&format!("name={name}")).error().contains("can name a file"));
    }
}

#[test]
fn every_layer_is_named_in_its_own_words() {
    let answer = r#"is "fast": expected a duration such as "30s" or "1m 30s""#;
    let attribute = Place::new(&[("drain_timeout", Literal::Str("fast"))]);
    assert_eq!(
        attribute.error(),
        format!("`drain_timeout` in the attribute at src/main.rs:3 {answer}")
    );
    let var = Place::new(&[]).var("DAEMON_DRAIN_TIMEOUT", "fast");
    assert_eq!(var.error(), format!("`drain_timeout` from DAEMON_DRAIN_TIMEOUT {answer}"));
    let line = Place::new(&[]).set("drain_timeout=fast");
    assert_eq!(line.error(), format!("`drain_timeout` from --set drain_timeout {answer}"));
    let line = Place::new(&[]).set("kill_timeout=30");
    assert!(line.error().contains("such as \"30s\""));
    let mut name = Place::new(&[]);
    name.spec.bin = Some(".x");
    assert!(name.error().starts_with("`name` by default is \".x\": "));
}

#[test]
fn empty_variables_are_unset_and_other_empty_values_are_mistakes() {
    for (name, key) in [
        ("DAEMON_UMASK", "umask"),
        ("DAEMON_LOG", "log"),
        ("DAEMON_NAME", "name"),
        ("DAEMON_CONFIG", "config"),
        ("DAEMON_LISTEN_HTTP", "listen.http"),
    ] {
        let loaded = Place::new(HTTP).var(name, "").load();
        assert!(!loaded.sources[key].contains("DAEMON"), "{}", loaded.sources[key]);
    }
    let answer = "`umask` from --set umask is empty: leave it out, or give it a value";
    assert_eq!(Place::new(&[]).set("umask=").error(), answer);
}

#[test]
fn unknown_keys_are_answered_with_the_nearest() {
    for (toml, answer) in [
        (
            "drain_timout = '1s'",
            "`drain_timout` in FILE is not a known key: did you mean `drain_timeout`?",
        ),
        (
            "drain.timeout = '1s'",
            "`drain` in FILE is not a known key: did you mean `drain_timeout`?",
        ),
        ("xyzzy = 1", "`xyzzy` in FILE is not a known key: remove it"),
        (
            "listen.a = {adr = '127.0.0.1:80'}",
            "`listen.a.adr` in FILE is not a known key: did you mean `listen.a.addr`?",
        ),
        (
            "listen.'My Api' = '127.0.0.1:80'",
            "`listen.\"My Api\"` in FILE is not a listener's name: use words of a-z and 0-9 with single `_` or `-` between them, as in `web_api`",
        ),
        ("listen.a__b = '127.0.0.1:80'", "`listen.a__b` in FILE is not a listener's name: "),
        ("listen.a_ = '127.0.0.1:80'", "`listen.a_` in FILE is not a listener's name: "),
        ("listen = '127.0.0.1:80'", "`listen` in FILE is not a table of listeners"),
        ("app = 1", "`app` in FILE is not a table: put keys below it"),
        ("config = 'x'", "`config` in FILE: a configuration file cannot name another, remove it"),
        ("graceful_restart = true", "`graceful_restart` in FILE belongs in the attribute"),
        ("flavor = 'x'", "`flavor` in FILE belongs in the attribute"),
    ] {
        let error = Place::new(&[]).file(toml).error();
        assert!(error.starts_with(answer), "{toml}: {error}");
    }
    for (set, answer) in [
        (
            "drain.timeout=1s",
            "`drain.timeout` from --set drain.timeout is not a known key: did you mean `drain_timeout`?",
        ),
        (
            "Drain-Timeout=1s",
            "`Drain-Timeout` from --set Drain-Timeout is not a known key: did you mean `drain_timeout`?",
        ),
        ("listen.http.bakclog=1", "did you mean `listen.http.backlog`?"),
        ("worker_threads=2", "`worker_threads` from --set worker_threads belongs in the attribute"),
        ("name", "--set name has no value: write --set name=…"),
        ("=x", "--set =x: expected key=value, such as drain_timeout=30s"),
        ("app=x", "--set app: name a key below it, such as --set app.pool=10"),
    ] {
        let error = Place::new(&[]).set(set).error();
        assert!(error.contains(answer), "{set}: {error}");
    }
    let error = Place::new(&[]).var("DAEMON_DRAIN_TIMOUT", "1s").error();
    assert_eq!(
        error,
        "DAEMON_DRAIN_TIMOUT is not a known variable: did you mean DAEMON_DRAIN_TIMEOUT?"
    );
    let error = Place::new(&[]).var("DAEMON_FLAVOR", "x").error();
    assert_eq!(error, "DAEMON_FLAVOR: `flavor` belongs in the attribute, unset the variable");
}

#[test]
fn files_that_cannot_be_read_name_who_named_them() {
    let dir = |place: &Place| place.dir.path().display().to_string();
    let place = Place::new(&[]).var("DAEMON_CONFIG", "no.toml");
    let answer =
        format!("cannot read {}/no.toml, named by DAEMON_CONFIG: No such file", dir(&place));
    assert!(place.error().starts_with(&answer), "{}", place.error());
    let place = Place::new(&[("config", Literal::Str("/no.toml"))]);
    assert!(
        place.error().starts_with("cannot read /no.toml, named by attribute at src/main.rs:3: ")
    );

    let place = Place::new(&[]).file("name = 'x'\n\ndetach = yes\n");
    assert!(place.error().starts_with("FILE is not TOML: line 3: "), "{}", place.error());
    assert_eq!(place.error().lines().count(), 1);
    let place = Place::new(&[]).file("");
    fs::write(place.path(), [0xff]).unwrap();
    assert_eq!(place.error(), "FILE is not TOML: it is not UTF-8 text");
}

#[test]
fn text_that_is_not_utf8_names_the_variable() {
    let mut place = Place::new(&[]);
    place.around.vars.push(("DAEMON_LOG".into(), OsString::from_vec(vec![0xff])));
    assert_eq!(place.error(), "DAEMON_LOG is not UTF-8 text: unset it");

    let mut place = Place::new(&[]).set("log=x.log");
    place.around.start_dir = OsString::from_vec(b"/\xff".to_vec()).into();
    assert!(place.error().contains("is not UTF-8, give an absolute path"), "{}", place.error());
    let mut place = Place::new(&[]).set("config=x.toml");
    place.around.start_dir = OsString::from_vec(b"/\xff".to_vec()).into();
    assert!(place.error().contains("named by --set config, is not UTF-8"), "{}", place.error());
}

#[test]
fn solo_daemons_have_no_supervisor_to_configure() {
    for key in KEYS.iter().filter(|key| key.needs == Needs::Supervisor) {
        let value = match key.default {
            Fallback::Value(text) => text,
            _ if key.name == "watchdog" => "10s",
            _ => "/bin/true",
        };
        let name = env::Prefix::new(DEFAULT_PREFIX).variable(&[key.name]);
        let error = Place::solo(&[]).var(&name, value).error();
        let answer = format!(
            "`{}` from {name} needs a supervisor: unset it, or add graceful_restart to the attribute at src/main.rs:3",
            key.name
        );
        assert_eq!(error, answer);
    }
    let supervised: Vec<_> =
        KEYS.iter().filter(|k| k.needs == Needs::Supervisor).map(|k| k.name).collect();
    assert_eq!(
        supervised.join(" "),
        "confirm_window exclusive watchdog orphan_grace handoff restart backoff_min backoff_max start_limit_burst start_limit_interval exe"
    );
    Place::solo(&[]).load();
}

#[test]
fn programs_without_a_daemon_have_no_listeners() {
    let mut place = Place::new(&[]).var("DAEMON_LISTEN_HTTP", "127.0.0.1:80");
    place.spec.takes_daemon = false;
    assert_eq!(
        place.error(),
        "`listen.http` from DAEMON_LISTEN_HTTP: `main` takes no `Daemon`, so the program has no listeners: unset it"
    );
}

#[test]
fn what_does_not_go_together() {
    let place = Place::new(&[]).file("backoff_min = '40s'");
    assert_eq!(
        place.short(&place.error()),
        "`backoff_min` (40s, FILE: backoff_min) is longer than `backoff_max` (30s, default): shorten it"
    );

    let place = Place::new(HTTP).var("DAEMON_LISTEN_WEB", "127.0.0.1:80");
    assert_eq!(
        place.error(),
        "`listen.http` in the attribute at src/main.rs:3 and `listen.web` from DAEMON_LISTEN_WEB have the same address, 127.0.0.1:80: change one"
    );
    Place::new(&[]).file("listen = {a = '127.0.0.1:0', b = '127.0.0.1:0'}").load();
    let place = Place::new(&[]).file("listen = {a = 'unix:s', b = 'unix:./s'}");
    assert!(place.error().contains("have the same address, unix:"));

    let place = Place::new(HTTP).var("DAEMON_PROBE", "127.0.0.1:80");
    assert_eq!(
        place.error(),
        "`listen.http` in the attribute at src/main.rs:3 and `probe` (DAEMON_PROBE) have the same address, 127.0.0.1:80: change one"
    );
    let place = Place::new(&[]).set("probe=unix:/run/probe.sock");
    assert_eq!(
        place.error(),
        "`probe` from --set probe is \"unix:/run/probe.sock\": expected an address and a port, such as \"0.0.0.0:8086\""
    );
    for field in ["mode='0660'", "user='www'", "group=33"] {
        let place = Place::new(&[]).file(&format!("listen.a = {{addr = '127.0.0.1:80', {field}}}"));
        assert!(
            place.error().ends_with("in FILE is only for a unix socket: remove it"),
            "{}",
            place.error()
        );
    }
    for addr in ["127.0.0.1:80", "unix:/s"] {
        let place = Place::new(&[]).file(&format!("listen.a = {{addr = '{addr}', v6only = true}}"));
        assert_eq!(
            place.error(),
            "`listen.a.v6only` in FILE is only for an IPv6 address: remove it"
        );
    }
    let place = Place::new(&[]).set("listen.a=:80").set("listen.a.v6only=no");
    assert_eq!(
        place.error(),
        "`listen.a.v6only` from --set listen.a.v6only is false, but the address is both families already: leave it out"
    );
    let place = Place::new(HTTP).var("DAEMON_LISTEN_WEB", "10.0.0.1:81,127.0.0.1:80");
    assert!(
        place.error().ends_with("have the same address, 127.0.0.1:80: change one"),
        "{}",
        place.error()
    );
    let place = Place::new(&[]).file("listen.a = ['[::1]:1', '[::1]:1']");
    assert!(place.error().ends_with("[::1]:1 is listed twice: remove one"), "{}", place.error());
    let place = Place::new(&[]).file("listen.a = {addr = 'unix:/s', tcp_keepalive = '9s'}");
    assert_eq!(place.error(), "`listen.a.tcp_keepalive` in FILE is only for TCP: remove it");
    let place = Place::new(HTTP).var("DAEMON_LISTEN_HTTP__MODE", "0660");
    assert_eq!(
        place.error(),
        "`listen.http.mode` from DAEMON_LISTEN_HTTP__MODE is only for a unix socket: unset it"
    );

    let place = Place::new(HTTP).var("DAEMON_LISTEN_HTPP__BACKLOG", "9");
    assert_eq!(
        place.error(),
        "`listen.htpp.backlog` from DAEMON_LISTEN_HTPP__BACKLOG belongs to a listener without an address: set `listen.htpp`"
    );

    let place = Place::new(&[]).set("pidfile=/x").set("listen.a=unix:/x");
    assert_eq!(place.error(), "a listener has the path of the pidfile, /x: change one");
}

#[test]
fn unix_paths_are_measured_when_absolute() {
    let mut place = Place::new(&[]).set(&format!("listen.a=unix:{}", "s".repeat(100)));
    place.around.start_dir = "/a".into();
    place.load();
    place.around.start_dir = "/a/longer".into();
    assert!(place.error().contains("at most 107 bytes"), "{}", place.error());
}

#[test]
fn all_mistakes_are_told_one_per_line() {
    let place = Place::new(&[("kill_timeout", Literal::Int(5))])
        .file("drain_timout = 1\nready = 'x'\n[listen]\na = 'b'")
        .var("DAEMON_FOO", "x")
        .set("umask=9");
    let error = place.error();
    assert_eq!(error.lines().count(), 6, "{error}");
    for part in ["kill_timeout", "drain_timout", "`ready`", "`listen.a`", "DAEMON_FOO", "`umask`"] {
        assert!(error.lines().any(|line| line.contains(part)), "{part}: {error}");
    }
}

#[test]
fn long_values_are_cut() {
    let error = Place::new(&[]).set(&format!("umask={}", "ä".repeat(500))).error();
    assert!(error.len() < 300 && error.contains('…'), "{error}");
}

#[test]
fn depth_is_bounded() {
    let deep = ".a".repeat(20_000);
    for text in [format!("app{deep} = 1"), format!("[app{deep}]\nx = 1")] {
        assert!(Place::new(&[]).file(&text).error().starts_with("FILE is not TOML: line 1: "));
    }
    assert!(Place::new(&[]).set(&format!("app{deep}=1")).error().contains("expected key=value"));
    let name = format!("DAEMON_APP{}", "__A".repeat(20_000));
    assert!(Place::new(&[]).var(&name, "1").error().contains("names no key"));
    let brackets = Place::new(&[]).set(&format!("app.x={}", "[".repeat(20_000))).load();
    assert!(brackets.app::<std::collections::BTreeMap<String, Vec<Vec<u8>>>>().is_err());
}
