//! The `#[daemon]` attribute of the `unbroken` crate, which exports it.

mod args;
mod check;
mod expand;
mod fallback;
mod json;
mod signature;
mod values;

use proc_macro2::TokenStream;

/// Turns `main`, or a function that `main` calls, into the `main` of a daemon.
///
/// ```no_run
/// use unbroken::{Daemon, daemon};
///
/// #[daemon(pidfile = "/run/hello/hello.pid", graceful_restart, drain_timeout = "20s")]
/// async fn main(daemon: Daemon) -> unbroken::Result<()> {
///     println!("{} is up", daemon.name());
///     daemon.draining().await;
///     Ok(())
/// }
/// ```
///
/// The function is sync or async, takes a `Daemon` or nothing, and returns what any `main` may return.
/// The argument is recognised by the name of its type: `Daemon` or `unbroken::Daemon`. A second argument
/// is the program's parsed command line, see `CommandLine`. Other attributes
/// and documentation stay, but `#[tokio::main]` and its like must go: `#[daemon]` starts the runtime.
///
/// # Keys
///
/// A key is `key = literal`; a flag such as `detach` needs no value. All but the last seven rows are
/// configuration, which the file, the environment and the command line can override.
///
/// | key | value | default |
/// |---|---|---|
/// | `name` | name of runtime files and logs | the binary's name |
/// | `pidfile` | path, locked while the daemon lives | `<runtime_dir>/<name>.pid` |
/// | `runtime_dir` | directory of pidfile and control socket | `$RUNTIME_DIRECTORY`, else `/run/<name>` as root, else `$XDG_RUNTIME_DIR/<name>`, else `/tmp/<name>-<uid>` |
/// | `detach` | a plain invocation detaches, as `start` does | `false` |
/// | `listen(…)` | the listeners, see below | none |
/// | `ready` | `"auto"`: when the program accepts on every listener; `"manual"`: when it calls `Daemon::ready` | `"auto"` |
/// | `ready_timeout` | duration | `"60s"` |
/// | `drain_timeout` | duration | `"30s"` |
/// | `kill_timeout` | duration | `"5s"` |
/// | `lame_duck` | duration for which it keeps accepting after a stop request, while it is not ready | `"0s"` |
/// | `confirm_window` ¹ | duration in which a restart can still be aborted | `"2s"` |
/// | `exclusive` ¹ | the old worker exits before the new one begins | `false` |
/// | `watchdog` ¹ | duration after which a worker that does not answer is replaced | off |
/// | `orphan_grace` ¹ | duration for which workers serve after their supervisor was killed | `"0s"` |
/// | `handoff` ¹ | idle connections go to the new worker | `true` |
/// | `restart` ¹ | after a worker's exit: `"no"`, `"on-failure"` or `"always"` | `"on-failure"` |
/// | `backoff_min`, `backoff_max` ¹ | durations between respawns | `"100ms"`, `"30s"` |
/// | `start_limit_burst`, `start_limit_interval` ¹ | number of respawns within a duration | `5`, `"60s"` |
/// | `umask` | octal: `"0027"` or `0o027` | inherited |
/// | `workdir` | directory | `"/"` when detached, else unchanged |
/// | `user`, `group` | the worker's user and group: a name or a number | the daemon's own, the user's |
/// | `groups` | supplementary groups: `["adm", "ssl-cert"]` | those of the user |
/// | `chroot` | root directory of the worker | none |
/// | `no_new_privileges` | programs that the worker executes gain no privileges | `true` with `user`, else `false` |
/// | `capabilities` | capabilities that the worker keeps: `["net_bind_service"]` | none with `user`, else all |
/// | `oom_score_adj`, `nice` | numbers from -1000 to 1000, from -20 to 19 | inherited |
/// | `limits(…)` | resource limits by name, soft and hard: `limits(nofile = "4096:65536", core = 0)` | inherited |
/// | `log` | file for stdout and stderr | stderr in the foreground, `<name>.log` when detached |
/// | `log_mode` | permissions of a new log file, octal | `"0640"` |
/// | `log_format` | how events are written: `"none"`, `"text"`, `"json"`, `"journald"` or `"auto"` | `"none"` |
/// | `log_level` | `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"` | `"info"` |
/// | `config` | configuration file | none |
/// | `env_file` | files of variables, read by each generation: `["/etc/default/hello"]` | none |
/// | `exe` ¹ | image of the next generation | the path the program was started by |
/// | `probe` | address that answers `/livez`, `/readyz` and `/startupz` | none |
/// | `env_prefix` | the prefix of variables, instead of `DAEMON`: `"HELLO"` for `HELLO_LOG` | `"DAEMON"` |
/// | `graceful_restart` | run under a supervisor | `false` |
/// | `flavor` ² | `"multi_thread"` or `"current_thread"` | `"multi_thread"` |
/// | `worker_threads` ² | threads of a multi-thread runtime | as Tokio decides |
/// | `configure` | function that sets keys from the program's own sources, see `Overrides` | none |
/// | `oneshot` | function that runs commands without the daemon, see `OneShot` | none |
/// | `crate` | path of the `unbroken` crate | `::unbroken` |
///
/// ¹ needs `graceful_restart`. ² needs an `async fn main`.
///
/// Durations are written as `"30s"`, `"500ms"` or `"1m 30s"`.
///
/// # Listeners
///
/// `listen` gives each listener a name, of lowercase letters, digits and single underscores, and an
/// address: `"127.0.0.1:80"`, `"[::]:80"` or `"unix:/path"`, or several of them in an array.
/// `"localhost:80"` and `":80"` are both families. Other host names are not resolved. A listener can also
/// be a table, in which only `addr` is required.
///
/// ```no_run
/// # use unbroken::{Daemon, daemon};
/// #[daemon(listen(
///     http = "0.0.0.0:8080",
///     admin(addr = "unix:/run/hello/admin.sock", mode = "0660", user = "www", group = "www"),
///     api(addr = "[::]:80", backlog = 1024, v6only = true),
/// ))]
/// async fn main(daemon: Daemon) {
///     daemon.draining().await;
/// }
/// ```
///
/// | field | value | default |
/// |---|---|---|
/// | `addr` | address | required |
/// | `backlog` | connections the kernel queues | `4096` |
/// | `mode` | permissions of a unix socket, octal | as the umask says |
/// | `user`, `group` | owner of a unix socket: a name or a number | the daemon's own |
/// | `v6only` | whether `[::]` refuses IPv4 | `true` |
/// | `header_timeout` ³ | duration within which the head of a request must arrive | `"30s"` |
/// | `idle_timeout` ³ | duration after which a connection without a request is closed | `"75s"` |
/// | `tcp_keepalive` ³ | duration of silence after which TCP probes the client | `"60s"` |
/// | `max_connections` ³ | open connections above which accepting waits | none |
/// | `max_header_bytes` ³ | size of a request's head | `65536` |
/// | `max_connection_age` ³ | duration after which a connection ends with its next response | none |
/// | `http2_max_streams` ³ | concurrent requests on one HTTP/2 connection | `200` |
/// | `http2_keepalive` ³ | duration after which an HTTP/2 client is pinged | off |
/// | `env` | the name of a variable with the address, or with a port for `addr`; only in the attribute | none |
///
/// ³ for what `Daemon::serve` serves. A duration of `"0s"` switches it off.
///
/// # Errors
///
/// Mistakes are compile errors at their place, all at once, each with what to write instead:
/// unknown and duplicate keys, values a key does not take, keys that need another one, `listen` without
/// a `Daemon` argument, and a function that cannot be `main`.
///
/// ```compile_fail
/// # use unbroken::daemon;
/// #[daemon(restart = "always")] // `restart` needs a supervisor. Add `graceful_restart`.
/// async fn main() {}
/// ```
///
/// # Other names than `main`
///
/// A program with a `main` of its own puts the attribute on another function and calls that one, which then
/// takes no argument and returns an `ExitCode`; `unbroken::is_verb` has an example.
///
/// # Expansion
///
/// The function moves, unchanged, into a `main` that holds a constant and one call.
#[proc_macro_attribute]
pub fn daemon(
    args: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    daemon_main(args.into(), item.into()).into()
}

/// For the runtime's own types.
#[doc(hidden)]
#[proc_macro_derive(ToJson, attributes(json))]
pub fn to_json(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    json(input, json::Direction::To)
}

/// For the runtime's own types.
#[doc(hidden)]
#[proc_macro_derive(FromJson, attributes(json))]
pub fn from_json(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    json(input, json::Direction::From)
}

fn json(input: proc_macro::TokenStream, direction: json::Direction) -> proc_macro::TokenStream {
    match syn::parse(input) {
        Ok(input) => json::derive(&input, direction).into(),
        Err(error) => error.into_compile_error().into(),
    }
}

fn daemon_main(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Vec::new();
    let entries = args::parse(args, &mut mistakes);
    let main = match signature::Main::parse(item.clone()) {
        Ok(main) => main,
        Err(mistake) => {
            let daemon = check::check(&entries, None, &mut mistakes);
            mistakes.push(mistake);
            return fallback::keep(item, &daemon, &mistakes);
        }
    };
    let daemon = check::check(&entries, Some(&main), &mut mistakes);
    signature::check(&main, &mut mistakes);
    if mistakes.is_empty() && main.wrong_argument().is_none() {
        expand::expand(&daemon, &main)
    } else {
        fallback::fallback(&main, &daemon, &mistakes)
    }
}

#[cfg(test)]
mod tests;
