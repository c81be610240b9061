use std::time::Duration;

use serde_json::Value;
use unbroken::__test;

use crate::address::Address;

/// Creates a builder for a [`Daemon`](unbroken::Daemon) in the test's own process.
///
/// See [`InProcess`].
pub fn in_process() -> InProcessBuilder {
    InProcessBuilder { settings: Vec::new(), app: Value::Null }
}

/// The settings of a daemon in the test's own process.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct InProcessBuilder {
    settings: Vec<String>,
    app: Value,
}

impl InProcessBuilder {
    /// Declares a listener with a free port of 127.0.0.1.
    pub fn listen(self, name: &str) -> Self {
        self.set(&format!("listen.{name}"), "127.0.0.1:0")
    }

    /// Sets a configuration key: `.set("drain_timeout", "1s")`, `.set("ready", "manual")`, or an address of
    /// another kind, `.set("listen.http", "unix:/…")`. The keys of a solo daemon are known.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push(format!("{key}={}", value.to_string()));
        self
    }

    /// Sets the section `[app]`, which `Daemon::config` returns.
    pub fn app(self, app: impl Into<Value>) -> Self {
        InProcessBuilder { app: app.into(), ..self }
    }

    /// Binds the listeners.
    ///
    /// # Panics
    ///
    /// If a setting is wrong, or an address cannot be bound.
    #[track_caller]
    pub fn start(&self) -> InProcess {
        match __test::InProcess::start(&self.settings, self.app.clone()) {
            Ok(inner) => InProcess { inner },
            Err(error) => panic!("{error}"),
        }
    }
}

/// A [`Daemon`](unbroken::Daemon) in the test's own process, for unit tests of a function that takes one.
///
/// Its listeners, readiness, configuration, `spawn` and `serve` are those of a solo daemon. There is no other
/// process: no pidfile, no signals, no environment that is read, and no generation to hand off to. At the drain
/// deadline the process goes on, where a real one ends: [`drained`](Self::drained) returns `false`.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use tokio::io::AsyncReadExt;
/// use unbroken::Daemon;
///
/// /// Counts the bytes of each connection.
/// async fn run(daemon: Daemon) -> unbroken::Result<u64> {
///     let mut total = 0;
///     let mut listener = daemon.listener("count")?;
///     while let Some(Ok((mut stream, _))) = listener.next().await {
///         total += stream.read_to_end(&mut Vec::new()).await.unwrap_or(0) as u64;
///     }
///     Ok(total)
/// }
///
/// #[tokio::main(flavor = "current_thread")] // In a test: #[tokio::test]
/// async fn main() {
///     let app = unbroken_test::in_process().listen("count").start();
///     let server = tokio::spawn(run(app.daemon()));
///     app.ready().await;
///     std::net::TcpStream::connect(app.addr("count").tcp()).unwrap().write_all(b"hello").unwrap();
///     app.drain();
///     assert_eq!(server.await.unwrap().unwrap(), 5);
///     assert!(app.drained().await);
/// }
/// ```
#[derive(Debug)]
pub struct InProcess {
    inner: __test::InProcess,
}

impl InProcess {
    /// Returns the handle to pass to the program.
    #[must_use]
    pub fn daemon(&self) -> unbroken::Daemon {
        self.inner.daemon()
    }

    /// Returns the address of a listener.
    ///
    /// # Panics
    ///
    /// If there is no such listener.
    #[track_caller]
    #[must_use]
    pub fn addr(&self, listener: &str) -> Address {
        let mut addrs = self.inner.addrs().iter();
        match addrs.find_map(|(name, addr)| addr.parse().ok().filter(|_| name == listener)) {
            Some(addr) => addr,
            None => panic!("there is no listener `{listener}`; declare it with `listen`"),
        }
    }

    /// Waits until the program is ready: it accepts on every listener, or has called `Daemon::ready`.
    pub async fn ready(&self) {
        self.inner.ready().await;
    }

    /// Returns whether the program is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    /// Begins the drain, as a stop of the daemon does, with the deadline that `drain_timeout` sets.
    pub fn drain(&self) {
        self.inner.drain(None);
    }

    /// Begins the drain with this time until the deadline, or brings the deadline of a drain forward.
    pub fn drain_within(&self, timeout: Duration) {
        self.inner.drain(Some(timeout));
    }

    /// Waits until all connections and all tasks of `Daemon::spawn` have ended, at most until the drain
    /// deadline. Returns whether they have.
    pub async fn drained(&self) -> bool {
        self.inner.drained().await
    }
}
