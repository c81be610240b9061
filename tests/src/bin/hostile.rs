//! A worker that misuses its link to the supervisor. A request for `/link/{what}` selects how.

mod app;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use axum::extract::Path;
use axum::routing::get;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use unbroken::{Daemon, daemon};

#[daemon(
    name = "app",
    graceful_restart,
    confirm_window = "0s",
    listen(http = "127.0.0.1:0"),
    ready_timeout = "10s",
    drain_timeout = "10s",
    kill_timeout = "1s"
)]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let says = daemon.clone();
    let router = app::router(&daemon, "hostile")
        .route("/say/{text}", get(|Path(text): Path<String>| async move { says.status(text) }))
        .route("/link/{what}", get(|Path(what): Path<String>| async move { misuse(&what) }));
    daemon.serve("http", router).await?;
    Ok(())
}

/// Returns a copy of the link's descriptor. The API does not reveal it, so this searches for the only
/// `SOCK_SEQPACKET` socket of the process, as a compromised program could.
fn link() -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|number| number.parse().ok());
        let Some(number) = number else { continue };
        let Ok(fd) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else { continue };
        if rustix::net::sockopt::socket_type(&fd) == Ok(SocketType::SEQPACKET) {
            return Ok(fd);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Misuses the link, and returns how many of the messages could be sent.
fn misuse(what: &str) -> String {
    let done = link().and_then(|link| {
        let file: OwnedFd = std::fs::File::open("/dev/null")?.into();
        let many = vec![file.as_fd(); 250];
        let say = |text: &str| send(&link, text.as_bytes(), &[]);
        Ok(match what {
            "garbage" => times(20, || say("\u{0}garbage")),
            "truncated" => times(20, || say(r#"{"type":"status","te"#)),
            "unknown" => times(20, || say(r#"{"type":"dance","tempo":120}"#)),
            "later" => times(1, || say(r#"{"type":"status","text":"later","mood":"calm"}"#)),
            "oversized" => times(3, || say(&"x".repeat(150_000))),
            "deep" => times(3, || say(&"[".repeat(100_000))),
            "descriptors" => times(20, || send(&link, b"{\"type\":\"ready\"}", &many)),
            "ready" => times(20, || say(r#"{"type":"ready"}"#)),
            "hello" => times(20, || {
                say(r#"{"type":"hello","protocol":{"min":1,"max":1},"release":"9"}"#)
            }),
            "settings" => times(20, || say(r#"{"type":"hello","protocol":{"min":7,"max":9},"release":"9","configuration":{}}"#)),
            "error" => times(20, || say(r#"{"type":"error","message":"what?"}"#)),
            // 21,800 characters, which as JSON have more bytes than a packet may have.
            "text" => {
                let text = "\\u0001".repeat(21_800);
                times(1, || say(&format!(r#"{{"type":"status","text":"{text}"}}"#)))
            }
            "failing" => times(1, || say(r#"{"type":"failing","reason":"none at all"}"#)),
            "flood" => {
                let text = r#"{"type":"status","text":"more"}"#;
                for _ in 0..4 {
                    let link = link.try_clone()?;
                    std::thread::spawn(move || {
                        loop {
                            let _ = rustix::net::send(&link, text.as_bytes(), SendFlags::NOSIGNAL);
                        }
                    });
                }
                4
            }
            "empty" => times(20, || send(&link, b"", &[])),
            "counters" => scribble()?,
            "escape" => times(1, || say("{\"type\":\"status\",\"text\":\"a\\u001b[2Jb\\u009bc\\u0007\"}")),
            "deaf" => {
                rustix::net::shutdown(&link, rustix::net::Shutdown::Read)?;
                1
            }
            _ => 0,
        })
    });
    match done {
        Ok(times) => format!("{what} {times}\n"),
        Err(error) => format!("{what} {error}\n"),
    }
}

/// Overwrites the counters, which are shared with the supervisor, and returns the number of mappings.
fn scribble() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let ours = |line: &&str| line.contains("memfd:unbroken-counters");
    let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    let mut pieces = 0;
    for line in maps.lines().filter(ours) {
        let (start, _) = line.split_once('-').ok_or(io::ErrorKind::InvalidData)?;
        let start = u64::from_str_radix(start, 16).map_err(io::Error::other)?;
        // The counters of connections and requests, and the record of the start.
        memory.write_all_at(&[0xff; 192], start)?;
        pieces += 1;
    }
    Ok(pieces)
}

fn times(count: usize, mut once: impl FnMut() -> io::Result<()>) -> usize {
    (0..count).filter(|_| once().is_ok()).count()
}

fn send(link: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
