//! Without async: an accept loop of its own on the listener `http`, a thread for each request, and bare streams
//! on the listener `lines`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0", lines = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
fn main(daemon: Daemon) -> anyhow::Result<()> {
    let lines = {
        let daemon = daemon.clone();
        std::thread::spawn(move || lines(&daemon))
    };
    let http = daemon.blocking_raw_listener("http")?.into_std_tcp()?;
    let (pauses, paused) = std::sync::mpsc::channel();
    {
        let daemon = daemon.clone();
        std::thread::spawn(move || {
            while daemon.wait_paused() && pauses.send(()).is_ok() && daemon.wait_resumed() {}
        });
    }
    let draining = daemon.draining_token();
    let mut requests = Vec::new();
    while !draining.is_cancelled() {
        if paused.try_recv().is_ok() {
            daemon.status("paused");
            if daemon.wait_resumed() {
                daemon.status("resumed");
            }
            continue;
        }
        if let Some(stream) = accept(&http)? {
            let generation = daemon.generation();
            requests.push(std::thread::spawn(move || answer(stream, generation)));
        }
    }
    drop(http);
    for request in requests {
        let _ = request.join();
    }
    let _ = lines.join();
    Ok(())
}

/// Waits for a connection, for a moment. The socket is non-blocking, and another worker may be faster.
fn accept(http: &TcpListener) -> std::io::Result<Option<TcpStream>> {
    let moment = Timespec::try_from(Duration::from_millis(10)).map_err(std::io::Error::other)?;
    poll(&mut [PollFd::new(http, PollFlags::IN)], Some(&moment))?;
    match http.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn answer(mut stream: TcpStream, generation: u32) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut bytes = [0; 512];
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            read => head.extend(&bytes[..read]),
        }
    }
    let body = format!("generation={generation} pid={}\n", std::process::id());
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn lines(daemon: &Daemon) -> anyhow::Result<()> {
    let listener = daemon.blocking_listener("lines")?;
    while let Some(accepted) = listener.next() {
        let (socket, guard) = accepted?.0.into_parts();
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut stream = BufReader::new(TcpStream::from(socket));
            let mut line = String::new();
            while stream.read_line(&mut line)? > 0 {
                stream.get_mut().write_all(line.as_bytes())?;
                line.clear();
            }
            guard.mark_closed();
            Ok(())
        });
    }
    Ok(())
}
