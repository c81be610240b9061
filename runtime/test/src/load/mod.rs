//! Clients that keep a listener under load, each on a thread of its own.

mod client;
mod connection;
mod http;
mod report;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use connection::Connection;
pub use http::Response;
pub use report::{Failure, LoadReport};

use crate::address::Address;

use client::Client;

/// The error of a request.
type RequestError = Box<dyn Error + Send + Sync>;

/// A function of the test for one request on a connection of the load.
type Exchange = dyn Fn(&mut Connection) -> Result<(), RequestError> + Send + Sync;

/// A function of the test for one request that connects itself.
type Call = dyn Fn(&Address) -> Result<(), RequestError> + Send + Sync;

/// One request of a load.
#[derive(Clone)]
enum Request {
    /// `GET` of these paths, in turn.
    Http(Vec<String>),
    Exchange(Arc<Exchange>),
    Call(Arc<Call>),
}

/// A load on a listener, to be started.
///
/// By default, two clients keep their connections, and two make a new connection for each request. Each
/// sends a `GET /` of HTTP/1.1 and 2 ms after the response the next one. No request is repeated. A client
/// whose kept connection was closed before it sent a request opens a new one, as clients do; every other
/// end of a connection, a response with a status of 400 or more, and a response that is not complete in time
/// is a failure.
///
/// # Examples
///
/// Another protocol: each call of the function is one request.
///
/// ```no_run
/// use std::io::{Read, Write};
///
/// # let echo = unbroken_test::program("").start();
/// let load = echo.load("echo").exchange(|connection| {
///     connection.write_all(b"hello")?;
///     let mut answer = [0; 5];
///     connection.read_exact(&mut answer)?;
///     if answer == *b"hello" { Ok(()) } else { Err(format!("{answer:?}").into()) }
/// });
/// let load = load.start();
/// echo.restart();
/// load.finish().assert_nothing_lost();
/// ```
#[derive(Clone)]
#[must_use = "a load does nothing until it is started"]
pub struct Load {
    listener: String,
    addr: Address,
    request: Request,
    kept: usize,
    new: usize,
    pause: Duration,
    timeout: Duration,
}

impl Load {
    pub(crate) fn new(listener: &str, addr: Address) -> Self {
        Load {
            listener: listener.to_owned(),
            addr,
            request: Request::Http(vec!["/".to_owned()]),
            kept: 2,
            new: 2,
            pause: Duration::from_millis(2),
            timeout: Duration::from_secs(10),
        }
    }

    /// Requests this path instead of `/`.
    pub fn path(self, path: impl Into<String>) -> Self {
        self.paths([path])
    }

    /// Requests these paths, in turn.
    #[track_caller]
    pub fn paths<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        let paths: Vec<String> = paths.into_iter().map(Into::into).collect();
        assert!(!paths.is_empty(), "a load needs a path");
        Load { request: Request::Http(paths), ..self }
    }

    /// Makes requests of another protocol: each call of `exchange` is one request. It writes to and reads
    /// from a connection of the load, which is a new one or a kept one.
    ///
    /// A read or write that takes longer than [`timeout`](Self::timeout) fails.
    pub fn exchange<F>(self, exchange: F) -> Self
    where
        F: Fn(&mut Connection) -> Result<(), RequestError> + Send + Sync + 'static,
    {
        Load { request: Request::Exchange(Arc::new(exchange)), ..self }
    }

    /// Makes requests with a client of the test's own: each call of `call`, with the address of the listener,
    /// is one request. All clients of the load call it, on their threads.
    pub fn call<F>(self, call: F) -> Self
    where
        F: Fn(&Address) -> Result<(), RequestError> + Send + Sync + 'static,
    {
        Load { request: Request::Call(Arc::new(call)), ..self }
    }

    /// Sets the number of clients that keep their connections. Default: 2.
    pub fn keep_alive(self, clients: usize) -> Self {
        Load { kept: clients, ..self }
    }

    /// Sets the number of clients that make a new connection for each request. Default: 2.
    pub fn new_connections(self, clients: usize) -> Self {
        Load { new: clients, ..self }
    }

    /// Sets the time that each client waits after a response. Default: 2 ms.
    pub fn pause(self, pause: Duration) -> Self {
        Load { pause, ..self }
    }

    /// Sets the time that a connect, and each read or write of a request, may take. Default: 10 s.
    pub fn timeout(self, timeout: Duration) -> Self {
        Load { timeout, ..self }
    }

    /// Starts the load; returns when every client has made its first request.
    ///
    /// # Panics
    ///
    /// If there is no client, or no thread for one.
    #[track_caller]
    pub fn start(self) -> RunningLoad {
        let clients = self.kept + self.new;
        assert!(clients > 0, "a load needs a client: `keep_alive` or `new_connections`");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                stop: false,
                begun: 0,
                report: LoadReport::new(&self.listener),
            }),
            changed: Condvar::new(),
        });
        let mut threads = Vec::new();
        for number in 0..clients {
            let client = Client::new(self.clone(), number < self.kept, Arc::clone(&shared));
            let thread = std::thread::Builder::new().name(format!("load {}", self.listener));
            match thread.spawn(move || client.run()) {
                Ok(thread) => threads.push(thread),
                Err(error) => panic!("cannot start a thread for a client: {error}"),
            }
        }
        let running = RunningLoad { shared, threads };
        running.shared.wait(|state| state.begun >= clients);
        running
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("listener", &self.listener)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// A load that runs. Dropping it ends the load; if the test is panicking, its report is printed.
#[derive(Debug)]
pub struct RunningLoad {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningLoad {
    /// Returns the report so far.
    #[must_use]
    pub fn report(&self) -> LoadReport {
        self.shared.lock().report.clone()
    }

    /// Ends the load and returns the report. Before that, each client makes one more request: the report also
    /// shows that the daemon answers at the end.
    ///
    /// # Panics
    ///
    /// If a function of the test has panicked.
    #[track_caller]
    pub fn finish(mut self) -> LoadReport {
        self.stop();
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a request of the load panicked; see above");
        self.report()
    }

    fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// What the clients of a load share with the test.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stop: bool,
    /// The number of clients that have made their first request.
    begun: usize,
    report: LoadReport,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A client that panics leaves a valid report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !until(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sleeps, unless the load ends before.
    fn pause(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
