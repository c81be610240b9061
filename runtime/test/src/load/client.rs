use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Connection, Load, Request, RequestError, Shared};

/// The pause after a failure: without it, a client would fill the report while nothing listens.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A client of a load, with at most one connection at a time.
pub(super) struct Client {
    load: Load,
    /// It keeps its connection.
    keeps: bool,
    shared: Arc<Shared>,
    connection: Option<Connection>,
    requests: usize,
}

impl Client {
    pub(super) fn new(load: Load, keeps: bool, shared: Arc<Shared>) -> Self {
        Client { load, keeps, shared, connection: None, requests: 0 }
    }

    /// Makes requests until the load ends, and then one more.
    pub(super) fn run(mut self) {
        // A client that panics must not leave the test waiting for its first request.
        let mut first = FirstRequest { shared: Arc::clone(&self.shared), made: false };
        loop {
            let last = self.shared.lock().stop;
            let begun = Instant::now();
            let result = self.request();
            let latency = begun.elapsed();
            let failed = result.is_err();
            let mut state = self.shared.lock();
            match result {
                Ok(()) => state.report.succeeded(latency),
                Err(error) => state.report.fail(begun, error.to_string()),
            }
            drop(state);
            first.made();
            if last {
                return;
            }
            let pause = self.load.pause;
            self.shared.pause(if failed { pause.max(PAUSE_AFTER_FAILURE) } else { pause });
        }
    }

    fn request(&mut self) -> Result<(), RequestError> {
        let number = self.requests;
        self.requests += 1;
        if let Request::Call(call) = &self.load.request {
            return call(&self.load.addr);
        }
        let mut connection = self.connection()?;
        let result = match &self.load.request {
            Request::Http(paths) => {
                let path = &paths[number % paths.len()];
                connection.request(path, self.keeps).map_err(RequestError::from).and_then(
                    |response| match response.status {
                        ..400 => Ok(()),
                        status => Err(format!("status {status} for {path}").into()),
                    },
                )
            }
            Request::Exchange(exchange) => exchange(&mut connection),
            Request::Call(_) => Ok(()),
        };
        let count = connection.count_request();
        let result = result.map_err(|error| format!("request {count} of a connection: {error}"));
        if result.is_ok() && self.keeps && !connection.is_over() {
            self.connection = Some(connection);
        }
        Ok(result?)
    }

    /// Returns the kept connection, or a new one if there is none, or if the peer has closed it.
    fn connection(&mut self) -> Result<Connection, RequestError> {
        if let Some(kept) = self.connection.take() {
            if kept.is_idle() {
                return Ok(kept);
            }
            self.shared.lock().report.reopened += 1;
        }
        let opened = Connection::open(&self.load.addr, self.load.timeout);
        let connection = opened.map_err(|error| format!("cannot connect: {error}"))?;
        self.shared.lock().report.connections += 1;
        Ok(connection)
    }
}

/// Counts a client once, when it has made its first request or has panicked.
struct FirstRequest {
    shared: Arc<Shared>,
    made: bool,
}

impl FirstRequest {
    fn made(&mut self) {
        if !std::mem::replace(&mut self.made, true) {
            self.shared.lock().begun += 1;
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for FirstRequest {
    fn drop(&mut self) {
        self.made();
    }
}
