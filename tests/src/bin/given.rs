//! The steps of a service manager between fork and exec: receives descriptors over its standard input, places
//! them at the numbers of sd_listen_fds(3), from 3 on, and executes the program that they are for.

use std::io::{IoSliceMut, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

fn main() -> anyhow::Result<()> {
    // Descriptors that were inherited from the tests would take the numbers.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in open.into_iter().filter(|number| *number > 2) {
        // The descriptor of the directory itself is closed already.
        let _ = nix::unistd::close(number);
    }
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stdin(), parts, &mut control, RecvFlags::empty())?;
    let names = std::str::from_utf8(&bytes[..received.bytes])?.to_owned();
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(its) = message {
            fds.extend(its);
        }
    }
    for (number, fd) in (3..).zip(&fds) {
        anyhow::ensure!(fd.as_raw_fd() == number, "{number} was open already");
    }
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or_else(|| anyhow::anyhow!("which program?"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if !fds.is_empty() {
        command.env("LISTEN_FDS", fds.len().to_string());
        // Without LISTEN_PID, as `systemfd --no-pid` does for programs that it starts repeatedly.
        match std::env::var_os("GIVEN_TO_ANYBODY") {
            Some(_) => _ = command.env("LISTEN_FDS_FIRST_FD", "3"),
            None => _ = command.env("LISTEN_PID", std::process::id().to_string()),
        }
        match names.as_str() {
            "no names" => {}
            names => _ = command.env("LISTEN_FDNAMES", names),
        }
    }
    // The descriptors must stay open for the program.
    fds.into_iter().for_each(|fd| _ = fd.into_raw_fd());
    Err(command.exec().into())
}
