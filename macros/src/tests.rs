//! What the attribute expands to.

use proc_macro2::TokenStream;
use quote::quote;
use unbroken_schema::{
    ATTRIBUTE_KEYS, Fallback, KEYS, Key, LISTENER_ATTRIBUTE_FIELDS, LISTENER_FIELDS, Needs,
    SECTIONS,
};

use super::daemon_main;

fn expand(args: TokenStream, item: TokenStream) -> String {
    let file = syn::parse2(daemon_main(args, item)).expect("the expansion is Rust");
    prettyplease::unparse(&file)
}

macro_rules! snapshot {
    ($name:ident, [$($args:tt)*], $($item:tt)*) => {
        #[test]
        fn $name() {
            insta::with_settings!({ omit_expression => true }, {
                insta::assert_snapshot!(expand(quote!($($args)*), quote!($($item)*)));
            });
        }
    };
}

snapshot!(
    async_with_daemon,
    [pidfile = "/run/hello.pid", graceful_restart, listen(http = "0.0.0.0:8080")],
    /// Says hello.
    #[allow(unused)]
    pub async fn main(daemon: Daemon) -> anyhow::Result<()> {
        daemon.serve("http", app()).await?;
        Ok(())
    }
);

snapshot!(
    async_without_daemon,
    [],
    async fn main() {
        work().await
    }
);

snapshot!(
    async_never,
    [],
    async fn main(mut daemon: unbroken::Daemon) -> ! {
        loop {}
    }
);

snapshot!(
    sync_with_daemon,
    [detach = false],
    fn main(d: Daemon) -> ExitCode {
        ExitCode::SUCCESS
    }
);

snapshot!(sync_without_daemon, [detach], fn main() -> impl Termination {});

snapshot!(
    sync_never,
    [],
    fn main() -> ! {
        loop {}
    }
);

snapshot!(
    with_command_line,
    [
        configure = configure,
        oneshot = commands::run,
        listen(http(addr = "0.0.0.0:80", env = "PORT"))
    ],
    async fn main(daemon: Daemon, args: Args) -> anyhow::Result<()> {
        daemon.serve("http", app(args)).await
    }
);

snapshot!(
    another_name,
    [configure = configure, oneshot = run],
    pub fn serve() -> ! {
        loop {}
    }
);

snapshot!(
    every_key,
    [
        name = "hello",
        pidfile = "/run/hello/hello.pid",
        runtime_dir = "/run/hello",
        detach,
        graceful_restart = true,
        listen(
            http = "0.0.0.0:8080",
            admin = "unix:/run/x.sock",
            web = ["0.0.0.0:81", "[::]:81"],
            local = "localhost:82",
            api(
                addr = "[::]:80",
                backlog = 1024,
                mode = 0o660,
                user = "www",
                group = "www",
                v6only = true,
                header_timeout = "10s",
                idle_timeout = "1m",
                tcp_keepalive = "0s",
                max_connections = 1000,
                max_header_bytes = 8192,
                max_connection_age = "1h",
                http2_max_streams = 100,
                http2_keepalive = "20s",
            ),
        ),
        ready = "manual",
        ready_timeout = "1m 30s",
        drain_timeout = "30s",
        kill_timeout = "5s",
        lame_duck = "5s",
        confirm_window = "2s",
        exclusive = true,
        watchdog = "10s",
        orphan_grace = "10s",
        handoff = false,
        restart = "on-failure",
        backoff_min = "100ms",
        backoff_max = "30s",
        start_limit_burst = 5,
        start_limit_interval = "60s",
        umask = "27",
        workdir = "/",
        user = "www",
        group = "33",
        groups = ["adm", "ssl-cert"],
        chroot = "/srv/jail",
        no_new_privileges = false,
        capabilities = ["net_bind_service"],
        oom_score_adj = -100,
        nice = 5,
        limits(nofile = "4096:65536", core = 0, stack = "unlimited"),
        log = "/var/log/hello.log",
        log_mode = "0600",
        log_format = "json",
        log_level = "debug",
        config = "/etc/hello.toml",
        env_file = ["/etc/default/hello", "-/etc/hello.env"],
        exe = "/usr/bin/hello",
        probe = "0.0.0.0:8086",
        env_prefix = "HELLO_",
        flavor = "multi_thread",
        worker_threads = 4,
        crate = crate::renamed,
    ],
    async fn main(_: Daemon) {}
);

snapshot!(current_thread, [flavor = "current_thread", crate = "renamed"], async fn main() {});

snapshot!(
    broken_attribute,
    [pidfle = "/run/hello.pid", umask = 27],
    async fn main(daemon: Daemon) {
        daemon.draining().await;
    }
);

snapshot!(
    broken_argument,
    [],
    async fn main((listener, port): (Listener, u16)) {
        listener.take(port);
    }
);

snapshot!(
    broken_signature,
    [],
    #[tokio::main]
    #[allow(unused)]
    const extern "C" fn main<T>(daemon: Daemon, args: Args, other: T) {
        drop(other);
    }
);

snapshot!(broken_item, [], struct Server;);

/// The messages of an attribute, on a `main` that takes a `Daemon`.
fn messages(args: TokenStream) -> Vec<String> {
    let expansion = daemon_main(
        args,
        quote!(
            async fn main(daemon: Daemon) {}
        ),
    )
    .to_string();
    let errors = expansion.split("compile_error ! { ").skip(1);
    errors
        .filter_map(|rest| syn::parse_str(rest.split_once(" }")?.0).ok())
        .map(|text: syn::LitStr| text.value())
        .collect()
}

#[test]
fn a_value_has_the_bounds_of_the_configuration_file() {
    let listen = |name: &str, backlog: u32| {
        let name = quote::format_ident!("{name}");
        quote!(listen(#name(addr = "0.0.0.0:80", backlog = #backlog)))
    };
    assert_eq!(messages(listen("http", 70_000)), [""; 0]);
    assert_eq!(messages(listen("http", i32::MAX as u32)), [""; 0]);
    assert_eq!(
        messages(listen("http", 1 << 31)),
        ["`backlog`: expected a whole number from 1 to 2147483647, as in `backlog = 5`"]
    );
    let long = "a".repeat(65);
    assert_eq!(
        messages(listen(&long, 1)),
        [format!(
            "`{long}` cannot name a listener: use words of a-z and 0-9 with single `_` or `-` \
             between them, as in `web_api`"
        )]
    );
    for name in [long.as_str(), "a\nb"] {
        assert_eq!(
            messages(quote!(name = #name)),
            ["`name`: expected at most 64 bytes that can name a file, without `/` and not \
              beginning with `.`"]
        );
    }
    assert_eq!(
        messages(quote!(listen(http = "unix:@hello"))),
        ["`http`: an abstract socket has no permissions: use a path"]
    );
    assert_eq!(
        messages(quote!(start_limit_b = 5)),
        ["unknown key `start_limit_b`: did you mean `start_limit_burst`?"]
    );
    assert_eq!(
        messages(quote!(drain_timeout = "366days", ready_timeout = "0s")),
        ["`drain_timeout`: expected at most 365days", "`ready_timeout`: expected more than 0s"]
    );
}

/// The rows of the tables in the documentation: names, footnote and default of each.
fn documented(section: &str) -> Vec<(String, &str, String)> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("/// | `"));
    let rows = rows.flat_map(|row| {
        let (keys, rest) = row.split_once(" | ").unwrap();
        let default = rest.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let (keys, note) = match keys.rsplit_once(' ') {
            Some((keys, note @ ("¹" | "²" | "³"))) => (keys, note),
            _ => (keys, ""),
        };
        let keys: Vec<&str> = keys.split(", ").collect();
        let defaults: Vec<&str> = match default.split(", ").collect::<Vec<_>>() {
            parts if parts.len() == keys.len() => parts,
            _ => vec![default; keys.len()],
        };
        let plain = |text: &str| text.replace(['`', '"'], "");
        let rows = keys
            .into_iter()
            .zip(defaults)
            .map(move |(key, default)| (plain(key).replace("(…)", ""), note, plain(default)));
        rows.collect::<Vec<_>>()
    });
    rows.collect()
}

#[test]
fn the_documentation_has_every_key_of_the_schema() {
    let (of_attribute, of_listeners) =
        include_str!("lib.rs").split_once("/// # Listeners").unwrap();
    let keys: Vec<&Key> = KEYS.iter().chain(ATTRIBUTE_KEYS).collect();
    let fields: Vec<&Key> = LISTENER_FIELDS.iter().chain(LISTENER_ATTRIBUTE_FIELDS).collect();
    for (section, keys, others) in
        [(of_attribute, keys, &SECTIONS[..]), (of_listeners, fields, &[])]
    {
        let rows = documented(section);
        for key in &keys {
            let row = rows.iter().find(|(name, ..)| name == key.name);
            let (_, note, default) = row.unwrap_or_else(|| panic!("no `{}`", key.name));
            let expected = match key.needs {
                Needs::Supervisor => "¹",
                Needs::Async => "²",
                _ if unbroken_schema::HTTP_FIELDS.contains(&key.name) => "³",
                _ => "",
            };
            assert_eq!(*note, expected, "{}", key.name);
            if let Fallback::Value(value) = key.default {
                assert_eq!(default, value, "{}", key.name);
            }
        }
        let known = |name: &str| keys.iter().any(|key| key.name == name) || others.contains(&name);
        let mut names: Vec<&str> = rows.iter().map(|(name, ..)| name.as_str()).collect();
        assert!(names.iter().all(|name| known(name)), "{names:?}");
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!((all, names.len()), (keys.len() + others.len(), all), "{names:?}");
    }
}
