//! Who had accepted a connection: what the fixtures, built with failpoints, write down of each peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use crate::load::{Ledger, Outcome};

/// Which process had a client's connection last: accepted, or taken over from another one.
#[derive(Debug)]
pub struct Accepted(BTreeMap<SocketAddr, u32>);

/// Where the failed requests of a load belong.
#[derive(Debug, Default)]
pub struct Explained {
    /// Their connection was with a process that was killed.
    pub lost: u64,
    /// Nobody had accepted their connection.
    pub unaccepted: u64,
    /// They had no connection: nobody listened, or not any more when they had come.
    pub refused: u64,
    /// Their connection was with a process that was not killed, or they failed in another way.
    pub wrong: Vec<String>,
}

impl Accepted {
    /// What was written beside the path that `UNBROKEN_FAILPOINTS` names.
    ///
    /// # Panics
    ///
    /// If nothing was, or what was cannot be read.
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

    /// Explains every request that failed.
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
