//! This crate as one of the peers.

use unbroken_tests::{Process, Sandbox};

use super::peer::{Kind, Peer, Place, Running};

pub(crate) const UNBROKEN: Kind = Kind {
    name: "unbroken",
    options: "no confirm window, which would outlast the second between two restarts",
    version: || Ok(env!("CARGO_PKG_VERSION").to_owned()),
    start,
};

struct Unbroken;

fn start() -> Running {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    let addr = target.to_string().parse().expect("a TCP address");
    Running::new(Place { sandbox, addr }, Unbroken)
}

impl Peer for Unbroken {
    /// Deploys two programs in turn. The daemon counts the generations itself.
    fn deploy(&mut self, at: &Place, release: u64) {
        at.sandbox.deploy(if release.is_multiple_of(2) { "http-v2" } else { "http" });
    }

    fn restart(&mut self, at: &Place) {
        at.sandbox.restart();
    }

    fn root(&self) -> Option<Process> {
        None
    }
}
