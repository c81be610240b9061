//! Runs a program for which some system calls succeed and do nothing: `deceived setresuid,… program …`.
//!
//! A badly configured sandbox behaves like that. A worker must notice that it still has its privileges.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (calls, program) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let calls = calls.to_string_lossy().into_owned();
    let rules = calls.split(',').map(|call| match call {
        "setresuid" => Ok((libc::SYS_setresuid, Vec::new())),
        "setresgid" => Ok((libc::SYS_setresgid, Vec::new())),
        "setgroups" => Ok((libc::SYS_setgroups, Vec::new())),
        "capset" => Ok((libc::SYS_capset, Vec::new())),
        call => Err(anyhow::anyhow!("no call {call}")),
    });
    let filter = SeccompFilter::new(
        rules.collect::<Result<_, _>>()?,
        SeccompAction::Allow,
        // With error number 0 the call returns 0, which means success.
        SeccompAction::Errno(0),
        std::env::consts::ARCH.try_into()?,
    )?;
    let filter: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&filter)?;
    Err(Command::new(program).args(args).exec().into())
}
