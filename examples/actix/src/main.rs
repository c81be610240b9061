//! actix-web on a raw listener. actix accepts by itself, so the program pauses, resumes and stops its server as
//! the daemon reports.

use std::time::Duration;

use actix_web::dev::{ServerHandle, Service};
use actix_web::http::ConnectionType;
use actix_web::{App, HttpServer, web};
use unbroken::{Daemon, daemon};

/// How long a connection may be idle between two requests. A drain waits that long for the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long connections that actix has accepted may take to reach their thread. `stop` drops those that have
/// not.
const ARRIVAL: Duration = Duration::from_millis(500);

/// The longest time that `stop` waits for requests in flight, in seconds. With `KEEP_ALIVE` it is less than
/// `drain_timeout`, 30 s.
const SHUTDOWN_TIMEOUT: u64 = 25;

#[daemon(graceful_restart, listen(http = "127.0.0.1:8080"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    // At a restart this completes when the old generation is paused. Without it, actix would accept too early.
    let listeners = daemon.raw_listener("http").await?.split();
    let handle = daemon.clone();
    let mut server = HttpServer::new(move || {
        let draining = handle.draining_token();
        let (generation, pid) = (handle.generation(), std::process::id());
        let hello =
            move || async move { format!("hello from generation={generation} pid={pid}\n") };
        App::new()
            .wrap_fn(move |request, service| {
                let draining = draining.clone();
                let response = service.call(request);
                async move {
                    let mut response = response.await?;
                    if draining.is_cancelled() {
                        // The client sends its next request over a new connection, to the next generation.
                        // actix itself does that only after `stop`, which also closes idle connections.
                        let head = response.response_mut().head_mut();
                        head.set_connection_type(ConnectionType::Close);
                    }
                    Ok(response)
                }
            })
            .route("/", web::get().to(hello))
    });
    for listener in listeners {
        server = server.listen(listener.into_std_tcp()?)?;
    }
    let server = server
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(SHUTDOWN_TIMEOUT)
        // The daemon has the signals.
        .disable_signals()
        .run();
    let ((), ended) = tokio::join!(follow(daemon, server.handle()), server);
    Ok(ended?)
}

/// Pauses the server in the confirm window of a restart, resumes it if the restart is aborted, and stops it when
/// the drain begins.
async fn follow(daemon: Daemon, server: ServerHandle) {
    loop {
        tokio::select! {
            () = daemon.paused() => server.pause().await,
            () = daemon.draining() => break,
        }
        tokio::select! {
            () = daemon.resumed() => server.resume().await,
            () = daemon.draining() => break,
        }
    }
    server.pause().await;
    // Until then each connection is idle for too long, or has sent a request and was told to close. What remains
    // is a client that sends a request at the very moment at which its connection is closed for idleness.
    tokio::time::sleep(KEEP_ALIVE + ARRIVAL).await;
    server.stop(true).await;
}
