//! Random faults of a daemon.

use std::collections::BTreeSet;
use std::time::Duration;

use unbroken_tests::load::Running;
use unbroken_tests::{Bad, Process, Sandbox, Signal, eventually};

use crate::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// No fault: a restart to a good program.
    Restart,
    /// A restart to a program with one more listener, and back.
    Listeners,
    /// The serving worker is killed.
    Kill,
    /// The old worker is killed during a restart.
    KillOld,
    /// The new worker is killed during a restart, in whatever state it is.
    KillNew,
    /// The serving worker gets SIGTERM.
    Term,
    /// The serving worker is stopped for a moment.
    StopWorker,
    /// The supervisor is stopped for a moment.
    StopSupervisor,
    /// A restart while the supervisor is stopped for a moment.
    StopAndRestart,
    /// The file on disk is not a program.
    BadFile,
    /// The program fails, panics, aborts or exits at its start.
    BadStart,
    /// The program is not ready in time.
    Slow,
}

impl Fault {
    pub(crate) const ALL: [Fault; 12] = [
        Fault::Restart,
        Fault::Listeners,
        Fault::Kill,
        Fault::KillOld,
        Fault::KillNew,
        Fault::Term,
        Fault::StopWorker,
        Fault::StopSupervisor,
        Fault::StopAndRestart,
        Fault::BadFile,
        Fault::BadStart,
        Fault::Slow,
    ];
}

pub(crate) struct Faults {
    state: u64,
    /// The faults so far, in order.
    pub(crate) done: Vec<Fault>,
    /// The PIDs of the processes that were killed.
    pub(crate) killed: BTreeSet<u32>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Faults {
        Faults { state: seed, done: Vec::new(), killed: BTreeSet::new() }
    }

    /// The number of restarts requested, successful or not.
    pub(crate) fn restarts(&self) -> usize {
        let none = [Fault::Kill, Fault::Term, Fault::StopWorker, Fault::StopSupervisor];
        self.done.iter().filter(|fault| !none.contains(fault)).count()
    }

    /// Causes one more fault, and waits until the daemon has answered requests afterwards.
    pub(crate) fn next(&mut self, sandbox: &Sandbox, loads: &[Running; 2]) {
        // Half of them are good restarts.
        let fault = match self.below(2) {
            0 => Fault::Restart,
            _ => Fault::ALL[self.below(Fault::ALL.len() as u64) as usize],
        };
        self.done.push(fault);
        let held = Duration::from_millis(50 + self.below(300));
        match fault {
            Fault::Restart => {
                self.deploy_good(sandbox);
                sandbox.restart().ledger().assert_balanced();
            }
            Fault::Listeners => {
                sandbox.deploy("http-v3-listeners");
                sandbox.restart().ledger().assert_balanced();
                self.deploy_good(sandbox);
                sandbox.restart().ledger().assert_balanced();
            }
            Fault::Kill => self.kill(&sandbox.worker()),
            Fault::KillOld | Fault::KillNew => self.kill_within(sandbox, fault),
            Fault::Term => {
                let worker = sandbox.worker();
                worker.signal(Signal::TERM);
                assert!(worker.wait_gone(PATIENCE), "{worker:?} does not drain");
            }
            Fault::StopWorker => hold(&sandbox.worker(), held),
            Fault::StopSupervisor => hold(&sandbox.supervisor(), held),
            Fault::StopAndRestart => {
                self.deploy_good(sandbox);
                let supervisor = sandbox.supervisor();
                let restart = sandbox.spawn(["restart", "--json"]);
                hold(&supervisor, held);
                restart.wait(PATIENCE).expect_code(0);
            }
            Fault::BadFile => {
                let bad = [
                    Bad::NotExecutable,
                    Bad::WrongArchitecture,
                    Bad::Script,
                    Bad::Empty,
                    Bad::Truncated,
                    Bad::Missing,
                ];
                sandbox.deploy_bad(bad[self.below(bad.len() as u64) as usize]);
                sandbox.restart_aborts();
                self.deploy_good(sandbox);
            }
            Fault::BadStart => {
                let bad = ["fails-at-start", "panics-at-start", "aborts-at-start", "exits"];
                sandbox.deploy(bad[self.below(bad.len() as u64) as usize]);
                sandbox.restart_aborts();
                self.deploy_good(sandbox);
            }
            Fault::Slow => {
                sandbox.deploy("hangs-at-start");
                sandbox.restart_aborts();
                self.deploy_good(sandbox);
            }
        }
        loads.iter().for_each(|load| load.wait_for(1));
    }

    fn deploy_good(&mut self, sandbox: &Sandbox) {
        sandbox.deploy(["http", "http-v2"][self.below(2) as usize]);
    }

    fn kill(&mut self, process: &Process) {
        self.killed.insert(process.pid());
        process.kill();
    }

    fn kill_within(&mut self, sandbox: &Sandbox, fault: Fault) {
        self.deploy_good(sandbox);
        let old = sandbox.worker();
        let restart = sandbox.spawn(["restart", "--json"]);
        if fault == Fault::KillOld {
            self.kill(&old);
        } else {
            let mut new = None;
            eventually("the new worker is there", PATIENCE, || {
                let workers = sandbox.status().workers;
                new = workers.iter().map(|it| it.pid).find(|pid| *pid != old.pid());
                new.is_some()
            });
            if let Some(process) = new.and_then(Process::open) {
                self.kill(&process);
            }
        }
        // The restart may succeed or be aborted, but it must report which.
        let output = restart.wait(PATIENCE);
        assert!(output.stdout.contains("\"result\""), "{output}");
    }

    fn below(&mut self, limit: u64) -> u64 {
        // The generator SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Stops a process for a time.
fn hold(process: &Process, time: Duration) {
    process.signal(Signal::STOP);
    std::thread::sleep(time);
    process.signal(Signal::CONT);
}
