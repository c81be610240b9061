//! An image that is not built with `unbroken`: it finds its link to the supervisor and misuses it, in the way
//! that the file `misuse` in the starting directory selects.

#![allow(clippy::expect_used)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

const HELLO: &str = r#"{"type":"hello","protocol":{"min":1,"max":1},"release":"9"}"#;

fn main() -> io::Result<()> {
    let marker = std::env::var("UNBROKEN_ROLE").expect("started by a supervisor");
    let marker: serde_json::Value = serde_json::from_str(&marker)?;
    let number = marker["link"].as_i64().and_then(|number| i32::try_from(number).ok());
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let link = pidfd_getfd(&this, number.expect("a link"), PidfdGetfdFlags::empty())?;
    let dir = marker["start_dir"].as_str().expect("a directory");
    let word = std::fs::read_to_string(format!("{dir}/misuse"))?;
    match word.trim() {
        "silent" => {}
        "garbage" => say(&link, "\u{0}garbage")?,
        "ready" => say(&link, r#"{"type":"ready"}"#)?,
        "unknown" => say(&link, r#"{"type":"dance"}"#)?,
        "no-settings" => say(&link, HELLO)?,
        "protocol" => say(
            &link,
            &HELLO.replace(r#""max":1"#, r#""max":9"#).replace(r#""min":1"#, r#""min":9"#),
        )?,
        "bad-settings" => {
            say(&link, &HELLO.replace(r#""9"}"#, r#""9","configuration":{"settings":7}}"#))?
        }
        "flood" => loop {
            say(&link, r#"{"type":"status","text":"more"}"#)?;
        },
        "flood-of-errors" => loop {
            say(&link, r#"{"type":"dance"}"#)?;
        },
        "wide-reason" => {
            let reason = "€".repeat(20_000);
            say(&link, &format!(r#"{{"type":"failing","reason":"{reason}"}}"#))?;
            std::process::abort();
        }
        // As JSON each of the characters has two bytes.
        "doubled-reason" => {
            let reason = r"\\".repeat(20_000);
            say(&link, &format!(r#"{{"type":"failing","reason":"{reason}"}}"#))?;
            std::process::abort();
        }
        "long-reason" => {
            let reason = "x".repeat(100_000);
            say(&link, &format!(r#"{{"type":"failing","reason":"{reason}"}}"#))?;
            std::process::abort();
        }
        // As JSON each of the characters has six bytes, the most there are.
        "odd-reason" => {
            let reason = "\\u0001".repeat(20_000);
            say(&link, &format!(r#"{{"type":"failing","reason":"{reason}"}}"#))?;
            std::process::abort();
        }
        other => panic!("no word `{other}`"),
    }
    // Ignores all messages until the supervisor closes the link.
    let mut buffer = vec![0; 256 * 1024];
    while rustix::net::recv(&link, &mut buffer[..], RecvFlags::empty())?.1 > 0 {}
    Ok(())
}

fn say(link: &OwnedFd, text: &str) -> io::Result<()> {
    rustix::net::send(link, text.as_bytes(), SendFlags::NOSIGNAL)?;
    Ok(())
}
