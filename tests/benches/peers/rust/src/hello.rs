//! The service that all of them serve.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;

/// Each response says which release of the program gave it.
pub fn answer() -> anyhow::Result<String> {
    Ok(format!("generation={} pid={} version=1\n", release()?, std::process::id()))
}

/// The service of the programs that use axum.
pub fn router() -> anyhow::Result<Router> {
    let answer = answer()?;
    Ok(Router::new().route("/", get(move || async move { answer })))
}

/// The address to listen on: the first argument.
pub fn address() -> anyhow::Result<SocketAddr> {
    let argument = std::env::args().nth(1);
    Ok(argument.ok_or_else(|| anyhow::anyhow!("give the address to listen on"))?.parse()?)
}

/// The number of this release: what follows the program in its file, behind a space.
fn release() -> anyhow::Result<u64> {
    let mut program = File::open("/proc/self/exe")?;
    program.seek(SeekFrom::End(-16))?;
    let mut end = Vec::new();
    program.read_to_end(&mut end)?;
    let start = end.iter().rposition(|byte| *byte == b' ').map_or(0, |space| space + 1);
    Ok(std::str::from_utf8(&end[start..])?.parse()?)
}
