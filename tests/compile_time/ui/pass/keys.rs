//! Every key, in each of its spellings.
#![deny(warnings)]

mod spellings {
    #[unbroken::daemon(
        detach = false,
        graceful_restart = true,
        umask = 0o027,
        restart = "no",
        ready = "manual",
        flavor = "current_thread",
        start_limit_burst = 1_0u32,
        pidfile = r"/run/x.pid"
    )]
    pub(crate) async fn main() {}
}

mod all {
    use unbroken::{Daemon, daemon};

    #[daemon(
        name = "hello",
        pidfile = "/run/hello/hello.pid",
        runtime_dir = "/run/hello",
        detach,
        graceful_restart,
        listen(
            http = "0.0.0.0:8080",
            admin = "unix:/run/hello/admin.sock",
            api(
                addr = "[::]:80",
                backlog = 2_147_483_647,
                mode = "0660",
                user = "www",
                group = 33,
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
            both(addr = "[::]:81", v6only = false),
            type(addr = "[::]:82", v6only),
        ),
        ready = "auto",
        ready_timeout = "1m 30s",
        drain_timeout = "30s",
        kill_timeout = "500ms",
        lame_duck = "5s",
        probe = "0.0.0.0:8086",
        confirm_window = "2s",
        exclusive,
        watchdog = "10s",
        orphan_grace = "10s",
        handoff = false,
        restart = "on-failure",
        backoff_min = "100ms",
        backoff_max = "30s",
        start_limit_burst = 5,
        start_limit_interval = "1m",
        umask = "0027",
        workdir = "/",
        log = "/var/log/hello.log",
        log_mode = 0o640,
        log_format = "auto",
        log_level = "warn",
        config = "/etc/hello.toml",
        exe = "/usr/bin/hello",
        flavor = "multi_thread",
        worker_threads = 4,
        crate = unbroken,
    )]
    pub(crate) async fn main(daemon: Daemon) -> anyhow::Result<()> {
        daemon.draining().await;
        Ok(())
    }
}

fn main() {
    let _ = (all::main, spellings::main);
}
