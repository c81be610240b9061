//! The options of hyper, for those that no key of the configuration sets.

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

#[cfg(feature = "http2")]
pub use self::streams::Streams;
use crate::config::HttpSettings;

/// hyper's builders for the connections of one listener, as
/// [`Daemon::serve_with`](crate::Daemon::serve_with) hands them out.
///
/// They come with half-closed clients allowed, and with what the configuration of the listener says.
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

    /// Where the streams of HTTP/2 run: among the tasks that a drain waits for, and among our own.
    #[derive(Debug, Clone)]
    pub struct Streams {
        tasks: TaskTracker,
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
        // Its own limit for heads begins anew with each generation, and ends idle connections too.
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

    /// Options of HTTP/1.
    ///
    /// Of these, `half_close(false)` ends a request whose client has closed its half, rather than answer
    /// it: for programs whose handlers take long and are not worth finishing for a client that left.
    pub fn http1(&mut self) -> &mut http1::Builder {
        &mut self.http1
    }

    /// Options of HTTP/2.
    #[cfg(feature = "http2")]
    pub fn http2(&mut self) -> &mut http2::Builder<Streams> {
        &mut self.http2
    }
}
