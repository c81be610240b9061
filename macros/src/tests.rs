//! What the attribute expands to.

use proc_macro2::TokenStream;
use quote::quote;

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
        pass_connections = false,
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
    const extern "C" fn main<T>(daemon: Daemon, other: T) {
        drop(other);
    }
);

snapshot!(broken_name, [], async fn serve(daemon: Daemon) {});

snapshot!(broken_item, [], struct Server;);
