//! The run of one cell: a daemon under load, one fault, and the checks of what became of processes,
//! descriptors and requests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use unbroken::failpoint::VARIABLE;
use unbroken_tests::accepted::Accepted;
use unbroken_tests::load::{Ledger, Running};
use unbroken_tests::{Child, Load, Output, Process, Report, Sandbox, Signal, eventually};

use crate::cell::{Action, Answer, Cell, Scenario};

const SOON: Duration = Duration::from_secs(20);

/// The time for which a stopped process stays stopped. It is longer than a step of the protocol takes.
const HELD: Duration = Duration::from_millis(150);

/// The result of a cell, for the caller of the verb and for the clients.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) answer: Option<Answer>,
    pub(crate) requests: u64,
    /// Failed requests whose connection a killed process had.
    pub(crate) lost: u64,
    /// Failed requests whose connection no process had accepted, because the daemon had ended.
    pub(crate) turned_away: u64,
}

impl Outcomes {
    pub(crate) fn expected(answer: Answer) -> Outcomes {
        Outcomes { answer: Some(answer), ..Outcomes::default() }
    }
}

struct Trial {
    cell: Cell,
    sandbox: Sandbox,
    armed: PathBuf,
    load: Vec<Running>,
    /// The PIDs of the processes that the fault or the trial killed.
    killed: BTreeSet<u32>,
    generation: u64,
    supervisor: Process,
    worker: Process,
    /// The numbers of descriptors of supervisor and worker at rest.
    descriptors: (usize, usize),
}

pub(crate) fn run(cell: Cell) -> Outcomes {
    let mut trial = Trial::begin(cell);
    let verb = trial.provoke();
    let hit = trial.wait_hit();
    trial.fault(&hit);
    let answer = verb.map_or(Answer::Unasked, |verb| trial.hear(verb.wait(SOON)));
    assert_eq!(answer, cell.answer(), "{cell}");
    if !trial.supervisor.is_alive() || cell.scenario == Scenario::Stop {
        trial.after_the_end(answer)
    } else {
        trial.goes_on(answer)
    }
}

impl Trial {
    fn begin(cell: Cell) -> Trial {
        let mut sandbox = Sandbox::new("http");
        let armed = sandbox.path("failpoint");
        sandbox.set(VARIABLE, armed.display().to_string());
        // Long enough to kill a worker in the window where the scenario does that, short otherwise.
        let window = if cell.scenario == Scenario::Aborted { "10s" } else { "100ms" };
        for (name, value) in [
            ("CONFIRM_WINDOW", window),
            ("READY_TIMEOUT", "2s"),
            ("DRAIN_TIMEOUT", "5s"),
            ("KILL_TIMEOUT", "1s"),
            ("BACKOFF_MIN", "10ms"),
        ] {
            sandbox.set(&format!("DAEMON_{name}"), value);
        }
        let target = sandbox.start().target("http");
        if cell.scenario != Scenario::Aborted {
            // From the second generation on the supervisor also keeps the previous image open, so the
            // counts of descriptors can be compared.
            sandbox.deploy("http-v2");
            sandbox.restart();
        }
        sandbox.get("/").expect("a response");
        let (supervisor, worker) = (sandbox.supervisor(), sandbox.worker());
        eventually("it is at rest", SOON, || sandbox.status().serving().connections == 0);
        let descriptors = (supervisor.descriptors().len(), worker.descriptors().len());
        let generation = sandbox.status().generation();
        let load = || Load::on(target.clone()).paths(["/", "/wait/30"]).timeout(SOON);
        let load = vec![
            load().keep_alive(8).rate(300.0).start(),
            load().new_connections(8).rate(200.0).start(),
        ];
        load.iter().for_each(|load| load.wait_for(10));
        let killed = BTreeSet::new();
        Trial { cell, sandbox, armed, load, killed, generation, supervisor, worker, descriptors }
    }

    /// Arms the failpoint and starts the operation that reaches it.
    fn provoke(&mut self) -> Option<Child> {
        let Cell { scenario, point, action } = self.cell;
        let new = self.generation + 1;
        let from = if self.cell.of_new() { format!("@{new}") } else { String::new() };
        self.sandbox.deploy(match scenario {
            Scenario::Listener => "http-v3-listeners",
            _ => "http",
        });
        let arm = || {
            let next = self.sandbox.path("failpoint.next");
            std::fs::write(&next, format!("{}{from}={}", point.name, action.word()))
                .and_then(|()| std::fs::rename(&next, &self.armed))
                .expect("an armed step");
        };
        if scenario == Scenario::Aborted {
            let restart = self.sandbox.spawn(["restart", "--json"]);
            // The new worker serves in its confirm window, and the old one is paused.
            eventually("the new generation serves", SOON, || {
                let status = self.sandbox.status();
                status.generation() == new && status.workers.iter().any(|it| it.state == "paused")
            });
            self.load.iter().for_each(|load| load.wait_for(10));
            arm();
            let worker = self.sandbox.worker();
            self.killed.insert(worker.pid());
            worker.signal(Signal::KILL);
            return Some(restart);
        }
        arm();
        match scenario {
            Scenario::Restart | Scenario::Listener => {
                Some(self.sandbox.spawn(["restart", "--json"]))
            }
            Scenario::Stop => Some(self.sandbox.spawn(["stop", "--json"])),
            Scenario::Respawn => {
                self.killed.insert(self.worker.pid());
                self.worker.signal(Signal::KILL);
                None
            }
            Scenario::Serving | Scenario::Aborted => None,
        }
    }

    /// Waits until a process has reached the step, and returns its PID.
    fn wait_hit(&self) -> u32 {
        let mut pid = None;
        eventually(&format!("{}: it is reached", self.cell), SOON, || {
            pid = hit(&self.sandbox.dir().join("failpoint"));
            pid.is_some()
        });
        let pid = pid.expect("it is there");
        let supervises = pid == self.supervisor.pid();
        assert_eq!(supervises, self.cell.is_supervisor(), "{}: {pid} got there", self.cell);
        pid
    }

    fn fault(&mut self, pid: &u32) {
        match self.cell.action {
            Action::Kill => {
                self.killed.insert(*pid);
                if let Some(process) = Process::open(*pid) {
                    assert!(process.wait_gone(SOON), "{}: {pid} goes on", self.cell);
                }
            }
            Action::Stop => {
                let process = Process::open(*pid).expect("a process that is stopped");
                eventually("it is stopped", SOON, || process.state() == Some('T'));
                if !self.cell.is_supervisor() {
                    // The supervisor answers without waiting for the stopped process.
                    let _ = self.sandbox.status();
                }
                std::thread::sleep(HELD);
                process.signal(Signal::CONT);
            }
            // The worker does not get the order to drain, and is killed at the deadline.
            Action::Error if self.cell.point.name == "supervisor.before-drain" => {
                self.killed.insert(self.worker.pid());
            }
            Action::Delay | Action::Error => {}
        }
    }

    fn hear(&self, output: Output) -> Answer {
        let parsed: Option<Report> = serde_json::from_str(&output.stdout).ok();
        match parsed.as_ref().map(|report| report.result.as_str()) {
            Some("stopped") if !self.supervisor.is_alive() && lacks_ledger(&parsed) => {
                output.expect_code(0);
                Answer::Ended
            }
            Some("ok" | "stopped") => {
                output.expect_code(0);
                // The answer has a complete ledger.
                parsed.expect("a report").ledger().assert_balanced();
                Answer::Done
            }
            Some("aborted") => {
                output.expect_code(1);
                Answer::Aborted
            }
            _ => {
                assert!(output.code() != 0 && !output.text().is_empty(), "{}: {output}", self.cell);
                Answer::Nothing
            }
        }
    }

    /// Checks a daemon whose supervisor is alive: the service runs, in the old or the new generation.
    fn goes_on(mut self, answer: Answer) -> Outcomes {
        let cell = self.cell;
        let expected = self.generation + u64::from(answer == Answer::Done);
        eventually(&format!("{cell}: it is settled"), SOON, || {
            let status = self.sandbox.status();
            status.state == "running"
                && status.generation == Some(expected)
                && status.workers.len() == 1
                && status.workers[0].state == "serving"
        });
        self.load.iter().for_each(|load| load.wait_for(30));
        let ledgers: Vec<Ledger> = self.load.drain(..).map(Running::stop).collect();
        let outcomes = self.judge(&ledgers, answer, false);
        self.assert_at_rest(expected);

        // The next restart works.
        self.sandbox.deploy("http-v2");
        // The number of an aborted generation is not used again.
        let next = self.generation + if answer == Answer::Unasked { 1 } else { 2 };
        let report = self.sandbox.restart();
        assert_eq!(report.generation, Some(next), "{cell}: {report:?}");
        let response = self.sandbox.get("/").expect("a response");
        assert_eq!(response.number("generation"), Some(next), "{cell}");
        self.sandbox.stop();
        outcomes
    }

    /// Asserts that there are one supervisor, one worker, no zombie and no leaked descriptor, and that the
    /// status is true.
    fn assert_at_rest(&self, expected: u64) {
        let (cell, sandbox) = (self.cell, &self.sandbox);
        let status = sandbox.status();
        assert_eq!(status.pid, self.supervisor.pid(), "{cell}");
        let response = sandbox.get("/").expect("a response");
        let answered = (response.number("generation"), response.number("pid"));
        let claimed = status.serving();
        assert_eq!(answered, (Some(expected), Some(claimed.pid.into())), "{cell}");
        let pids: BTreeSet<u32> = sandbox.processes().iter().map(Process::pid).collect();
        assert_eq!(pids, [status.pid, claimed.pid].into(), "{cell}");
        let children: Vec<_> =
            self.supervisor.children().iter().map(|it| (it.pid(), it.state())).collect();
        assert_eq!(children.len(), 1, "{cell}: {children:?}");
        let worker = Process::open(claimed.pid).expect("the worker");
        let more = if cell.scenario == Scenario::Listener { 3 } else { 0 };
        let (ours, theirs) = self.descriptors;
        let kept = usize::from(cell.scenario == Scenario::Aborted || cell.keeps_image());
        eventually(&format!("{cell}: no descriptor is left open"), SOON, || {
            self.supervisor.descriptors().len() <= ours + more + kept
                && worker.descriptors().len() <= theirs + more
        });
    }

    /// Checks a daemon that has ended, by a stop or by the fault: no process is left, and it can be started
    /// again.
    fn after_the_end(mut self, answer: Answer) -> Outcomes {
        let cell = self.cell;
        self.sandbox.wait_empty(SOON);
        let ledgers: Vec<Ledger> = self.load.drain(..).map(Running::stop).collect();
        let outcomes = self.judge(&ledgers, answer, true);
        if !self.killed.contains(&self.supervisor.pid()) {
            self.sandbox.assert_nothing_left();
        }
        let status = self.sandbox.start();
        assert_eq!((status.generation(), status.workers.len()), (1, 1), "{cell}");
        self.sandbox.get("/").expect("a response");
        self.sandbox.restart();
        self.sandbox.stop();
        outcomes
    }

    /// Asserts that each failed request had a reason to fail. `ended` says that the daemon has ended.
    fn judge(&self, ledgers: &[Ledger], answer: Answer, ended: bool) -> Outcomes {
        let cell = self.cell;
        let accepted = Accepted::read(&self.armed);
        let mut outcomes = Outcomes { answer: Some(answer), ..Outcomes::default() };
        let mut unaccepted = 0;
        for ledger in ledgers {
            outcomes.requests += ledger.total();
            let explained = accepted.explain(ledger, &self.killed);
            let wrong = &explained.wrong;
            assert!(wrong.is_empty(), "{cell}: {wrong:#?}\nkilled: {:?}\n{ledger}", self.killed);
            assert!(ended || explained.refused == 0, "{cell}\n{ledger}");
            outcomes.lost += explained.lost;
            outcomes.turned_away += explained.refused;
            unaccepted += explained.unaccepted;
        }
        if ended {
            outcomes.turned_away += unaccepted;
        } else {
            // A process that is killed right after accept(2) has not recorded the connection.
            let limit = u64::from(!self.killed.is_empty());
            assert!(unaccepted <= limit, "{cell}: {unaccepted} failed, and nobody accepted them");
            outcomes.lost += unaccepted;
        }
        outcomes
    }
}

/// Returns whether the report lacks a ledger, because the daemon was gone before it could send one.
fn lacks_ledger(report: &Option<Report>) -> bool {
    report.as_ref().is_some_and(|report| report.ledger.is_none())
}

/// The PID of the process that reached the step, if any has.
fn hit(armed: &Path) -> Option<u32> {
    let dir = std::fs::read_dir(armed.parent()?).ok()?;
    let names = dir.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("failpoint.hit.")?.parse().ok()).next()
}
