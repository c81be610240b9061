//! hyper's builders, with the limits of the configuration applied.

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

#[cfg(feature = "http2")]
pub use self::streams::Streams;
use crate::config::HttpSettings;

/// hyper's builders for the connections of one listener, passed to the closure of
/// [`Daemon::serve_with`](crate::Daemon::serve_with).
///
/// They are preset with the listener's configuration, and with `half_close(true)` for HTTP/1.
#[derive(Debug)]
pub struct Builder {
    pub(super) http1: http1::Builder,
    #[cfg(feature = "http2")]
    pub(super) http2: http2::Builder<Streams>,
    pub(super) limits: HttpSettings,
}

#[cfg(feature = "http2")]
mod streams {
    use hyper::rt::Executor;
    use tokio_util::task::TaskTracker;

    /// hyper's executor for the streams of HTTP/2. It spawns them as tasks that the drain waits for.
    #[derive(Debug, Clone)]
    pub struct Streams {
        /// The tasks of this listener, which `serve` waits for.
        tasks: TaskTracker,
        /// The tasks of this crate, which are not counted as the program's own.
        own: TaskTracker,
    }

    impl Streams {
        pub(in crate::worker::http) fn new(tasks: &TaskTracker, own: &TaskTracker) -> Streams {
            Streams { tasks: tasks.clone(), own: own.clone() }
        }
    }

    impl<F> Executor<F> for Streams
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        fn execute(&self, stream: F) {
            self.tasks.spawn(self.own.track_future(stream));
        }
    }
}

impl Builder {
    pub(super) fn new(limits: HttpSettings, #[cfg(feature = "http2")] streams: Streams) -> Builder {
        let bytes = limits.max_header_bytes;
        let mut http1 = http1::Builder::new();
        // hyper's own timeout for heads is off: it would start again in each generation, and it also ends
        // idle connections. `Timeouts` replaces it.
        http1.timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
        http1.max_header_size(usize::try_from(bytes).unwrap_or(usize::MAX));
        Builder {
            http1,
            #[cfg(feature = "http2")]
            http2: {
                let mut http2 = http2::Builder::new(streams);
                let ping = Some(limits.http2_keepalive).filter(|ping| !ping.is_zero());
                http2.timer(TokioTimer::new()).keep_alive_interval(ping);
                http2.max_header_list_size(bytes).max_concurrent_streams(limits.http2_max_streams);
                http2
            },
            limits,
        }
    }

    /// Returns the builder for HTTP/1.
    ///
    /// With `half_close(false)`, hyper drops a request when its client closes its sending half, instead of
    /// answering it. Use that if handlers run long and should not go on for a client that has left.
    pub fn http1(&mut self) -> &mut http1::Builder {
        &mut self.http1
    }

    /// Returns the builder for HTTP/2.
    #[cfg(feature = "http2")]
    pub fn http2(&mut self) -> &mut http2::Builder<Streams> {
        &mut self.http2
    }
}
