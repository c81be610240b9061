//! The process that accepted each connection, as the fixtures record it.
//!
//! A fixture that runs with `UNBROKEN_FAILPOINTS` appends its PID and the peer's address to a file for every
//! connection that it accepts. With it a test can tell a request that was lost with a killed process from a
//! request that was lost by mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use crate::load::{Ledger, Outcome};

/// The PID of the process that had each connection last, by accepting it or by handoff; keyed by the client's
/// address.
#[derive(Debug)]
pub struct Accepted(BTreeMap<SocketAddr, u32>);

/// The failed requests of a load, by cause.
#[derive(Debug, Default)]
pub struct Explained {
    /// The process that had their connection was killed.
    pub lost: u64,
    /// No process had accepted their connection.
    pub unaccepted: u64,
    /// They had no connection: no process listened, or it had stopped listening.
    pub refused: u64,
    /// The process that had their connection was not killed, or they failed in another way.
    pub wrong: Vec<String>,
}

impl Accepted {
    /// Reads the record: the file named like `armed`, the value of `UNBROKEN_FAILPOINTS`, plus `.peers`.
    ///
    /// # Panics
    ///
    /// If the file does not exist or cannot be parsed.
    pub fn read(armed: &Path) -> Accepted {
        let mut path = armed.as_os_str().to_owned();
        path.push(".peers");
        let text = std::fs::read_to_string(path).expect("connections were accepted");
        let peers = text.lines().map(|line| {
            let (pid, peer) = line.split_once(' ').expect("a pid and a peer");
            (peer.parse().expect("a peer"), pid.parse().expect("a pid"))
        });
        Accepted(peers.collect())
    }

    /// Sorts the failed requests of `ledger` by cause. `killed` has the PIDs of the processes that were
    /// killed.
    pub fn explain(&self, ledger: &Ledger, killed: &BTreeSet<u32>) -> Explained {
        let mut explained = Explained::default();
        let mut connected = 0;
        for failure in &ledger.failures {
            let Some(local) = failure.local else { continue };
            connected += 1;
            match self.0.get(&local) {
                Some(pid) if killed.contains(pid) => explained.lost += 1,
                Some(pid) => explained
                    .wrong
                    .push(format!("{local} was with {pid}, which was not killed: {failure:?}")),
                None => explained.unaccepted += 1,
            }
        }
        let refused = [Outcome::ConnectRefused, Outcome::ConnectOther];
        explained.refused = refused.iter().map(|outcome| ledger.count(*outcome)).sum();
        if ledger.failed() != connected + explained.refused {
            explained.wrong.push(format!(
                "{} failed, {connected} with a connection and {} without one",
                ledger.failed(),
                explained.refused
            ));
        }
        explained
    }
}
