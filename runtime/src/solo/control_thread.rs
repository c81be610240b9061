//! The control thread of a solo daemon: it does the I/O for the decisions of its [`SoloMachine`], and talks to
//! the worker in the same process over a link, as a supervisor does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::config::Address;
use crate::control::{
    DiskStatus, ImageStatus, ListenerStatus, Reply, Status, WorkerStatus, unix_seconds,
};
use crate::counters::Counters;
use crate::daemon_io::{DaemonIo, IoSource, readiness_blocker};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::link::{self, FromWorker, ToWorker};
use crate::listener::Bound;
use crate::logs::EventContext;
use crate::owned_files::OwnedFiles;
use crate::supervisor::policy::policy;
use crate::sys::readiness::readable;
use crate::sys::signals::{CaughtSignals, HANDLED};
use crate::sys::{clock, process};
use unbroken_core::Exit;
use unbroken_core::event::{Action, Event, WorkerCommand};
use unbroken_core::machine::State;
use unbroken_core::machine::solo::{GENERATION, SoloMachine, WORKER};

/// A descriptor that may become readable.
#[derive(Debug, Clone, Copy)]
enum SoloSource {
    Link,
    Signals,
    Io(IoSource),
}

/// The control thread.
pub(super) struct SoloControl {
    io: DaemonIo,
    machine: SoloMachine,
    image: Image,
    link: OwnedFd,
    bound: Vec<(String, Bound)>,
    counters: Counters,
    caught: CaughtSignals,
    /// The closed listeners at which the program has to accept what is queued.
    finish: Vec<(String, Address)>,
    /// The program's last text for `status`.
    text: Option<String>,
    /// Why the program may never be ready: a listener that only the operator declared and it has not claimed.
    unclaimed: Option<String>,
    /// When the program became ready, in seconds since 1970.
    serves: Option<u64>,
    /// Whether `main` has ended.
    over: bool,
}

impl SoloControl {
    /// Catches the signals and begins to watch the daemon's files.
    pub(super) fn new(
        mut io: DaemonIo,
        image: Image,
        link: OwnedFd,
        bound: Vec<(String, Bound)>,
        counters: Counters,
    ) -> Result<SoloControl> {
        let caught = CaughtSignals::catch(&HANDLED)
            .map_err(|error| Error::io("cannot catch signals", error))?;
        let settings = &io.configuration.settings;
        if settings.chroot.is_none() {
            io.upkeep = Some(OwnedFiles::new(&settings.runtime_dir, Vec::new(), &io.say));
        }
        Ok(SoloControl {
            machine: SoloMachine::new(&settings.name, policy(settings), clock::now()),
            io,
            image,
            link,
            bound,
            counters,
            caught,
            finish: Vec::new(),
            text: None,
            unclaimed: None,
            serves: None,
            over: false,
        })
    }

    /// Starts the thread.
    pub(super) fn start(self) -> Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("unbroken-solo".into())
            .stack_size(512 * 1024)
            .spawn(move || self.run())
            .map_err(|error| Error::io("cannot start the control thread", error))
    }

    /// Reports a failed start and removes the daemon's files, instead of starting the thread.
    pub(super) fn abandon_start(mut self, error: &Error) {
        self.io.reporter.failed(error.exit_code(), &error.to_string());
        self.cleanup();
    }

    /// Runs until `main` has ended, then removes the daemon's files.
    fn run(mut self) {
        self.restore_files();
        self.io.notifier.tell(self.machine.health());
        while !self.over {
            if let Err(error) = self.wait() {
                self.io.say.warn(&format!("cannot wait for events: {error}"));
                // The program drains, and this thread gives up. One more stop would kill the program.
                if self.machine.state() != State::Stopping {
                    self.io.events.push_back(Event::Stop { client: None, at_once: true });
                }
                self.program_ended();
            }
            while let Some(event) = self.io.events.pop_front() {
                for action in self.machine.on(event, clock::now()) {
                    self.perform(action);
                }
            }
        }
        self.cleanup();
    }

    // ---- events ---------------------------------------------------------------------------------

    /// Sleeps until something happens, and handles it.
    fn wait(&mut self) -> Result<()> {
        let due = self.machine.deadline().map(clock::from_core);
        let next = [due, self.io.deadline()].into_iter().flatten().min();
        let mut sources: Vec<(SoloSource, BorrowedFd<'_>)> =
            vec![(SoloSource::Link, self.link.as_fd()), (SoloSource::Signals, self.caught.as_fd())];
        let io = self.io.sources();
        sources.extend(io.into_iter().map(|(source, fd)| (SoloSource::Io(source), fd)));
        let ready = readable(&sources, next).map_err(|error| Error::io("poll failed", error))?;
        let now = Instant::now();
        for source in ready {
            match source {
                SoloSource::Link => self.read_worker(),
                SoloSource::Signals => self.read_signals()?,
                SoloSource::Io(source) => self.read_io(source, now),
            }
        }
        let now = Instant::now();
        if self.io.files_are_due(now) {
            self.restore_files();
        }
        if self.io.expire(now, true) {
            self.store_listeners();
            self.io.notifier.flush();
        }
        if self.machine.deadline().is_some_and(|at| at <= clock::to_core(now)) {
            if self.machine.state() == State::Starting {
                let settings = Some(&self.io.configuration.settings);
                let missing = |names: &[&str], manual| self.counters.missing(names, manual);
                let unclaimed = self.unclaimed.as_ref();
                let blocker = readiness_blocker(WORKER, settings, unclaimed, missing);
                self.io.events.push_back(blocker);
            }
            self.io.events.push_back(Event::Tick);
        }
        Ok(())
    }

    fn read_io(&mut self, source: IoSource, now: Instant) {
        let machine = &self.machine;
        if let Some(client) = self.io.read(source, now, |probe| machine.probe(probe)) {
            let status = Box::new(self.status());
            self.io.clients.reply(client, &Reply::Status { status });
        }
    }

    fn read_signals(&mut self) -> Result<()> {
        while let Some(signal) =
            self.caught.next().map_err(|error| Error::io("cannot read signals", error))?
        {
            match signal {
                Signal::SIGUSR1 => _ = self.io.reopen_log(),
                signal => self.io.note_signal(signal),
            }
        }
        Ok(())
    }

    fn read_worker(&mut self) {
        let worker = WORKER;
        match link::receive::<FromWorker>(&self.link) {
            Ok(Some((FromWorker::Ready {}, _))) => {
                self.io.events.push_back(Event::Ready { worker })
            }
            Ok(Some((FromWorker::Status { text }, _))) => self.text = Some(text),
            Ok(Some((FromWorker::Unclaimed { reason, slip: true }, _))) => {
                // The final report: that of the exit would take it for a failure of `main`.
                self.io.reporter.failed(1, &reason);
                self.io.events.push_back(Event::HelloRejected { worker, reason });
            }
            Ok(Some((FromWorker::Unclaimed { reason, slip: false }, _))) => {
                self.io.say.warn(&reason);
                self.unclaimed = Some(reason);
            }
            Ok(Some((FromWorker::Unhealthy { reason }, _))) => {
                self.io.events.push_back(Event::Unhealthy { worker, reason });
            }
            Ok(Some(_)) => {}
            Ok(None) => self.program_ended(),
            Err(error) => self.io.say.warn(&format!("the link failed: {error}")),
        }
    }

    /// Reports the end of the program to the machine. Its exit code is that of this process.
    fn program_ended(&mut self) {
        let ledger = self.counters.final_ledger();
        self.io.events.push_back(Event::Exited { worker: WORKER, exit: Exit::Code(0), ledger });
    }

    // ---- actions --------------------------------------------------------------------------------

    /// Carries out one action.
    fn perform(&mut self, action: Action) {
        match action {
            Action::SendToWorker { command: WorkerCommand::Go, .. } => {
                self.send(&ToWorker::Go {}, &[]);
            }
            Action::SendToWorker {
                command: WorkerCommand::Drain { deadline, last, .. }, ..
            } => {
                let deadline = deadline.as_nanos();
                let (finish, finish_at) = std::mem::take(&mut self.finish).into_iter().unzip();
                self.send(&ToWorker::Drain { deadline, last, finish, finish_at }, &[]);
            }
            Action::CloseListeners => self.close_listeners(),
            Action::FirstReady { .. } => self.first_ready(),
            Action::StateChanged => self.io.notifier.tell(self.machine.health()),
            Action::Answer { client, answer } => self.io.clients.reply(client, &Reply::of(answer)),
            Action::Progress { text } => self.io.clients.progress(&text),
            Action::Log { level, text, .. } => self.io.log(level, &text, EventContext::default()),
            Action::Kill { .. } => {
                self.cleanup();
                process::exit_now(128 + 15);
            }
            Action::Exit { code: 0, .. } => self.over = true,
            Action::Exit { code, reason } => {
                self.io.reporter.failed_in_main(code, &reason.unwrap_or_default());
                self.cleanup();
                process::exit_now(code);
            }
            // Those that only a supervisor has to carry out.
            _ => {}
        }
    }

    /// Reports the daemon as started.
    fn first_ready(&mut self) {
        self.serves = Some(unix_seconds(SystemTime::now()));
        self.store_listeners();
        let addrs: Vec<String> =
            self.bound.iter().map(|(name, b)| format!("{name} {}", b.addr())).collect();
        let on = if addrs.is_empty() { String::new() } else { format!(" on {}", addrs.join(", ")) };
        self.io.say.line(&format!("serves{on}"));
        self.io.reporter.ready(&addrs);
    }

    /// Sends a message to the worker.
    fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = link::send(&self.link, message, fds) {
            self.io.say.warn(&format!("the link failed: {error}"));
        }
    }

    /// Has the service manager's fd store keep the listeners while the program serves.
    fn store_listeners(&mut self) {
        if self.machine.state() != State::Running {
            return;
        }
        let listeners = self.bound.iter().map(|(name, bound)| (name, bound));
        if let Some(remark) = self.io.notifier.keep(listeners) {
            self.io.say.line(&remark);
        }
    }

    /// Closes the thread's copies of the listeners.
    fn close_listeners(&mut self) {
        for (name, bound) in std::mem::take(&mut self.bound) {
            let held = self.io.notifier.holds(bound.addr());
            // Connections queued at listeners that the service manager passed or keeps wait for the next
            // start; those queued at the others must be accepted by this process.
            if !bound.is_managers() && !held {
                self.finish.push((name, bound.addr().clone()));
            }
            if !held {
                bound.unlink();
            }
        }
    }

    /// Removes the daemon's files.
    fn cleanup(&mut self) {
        self.close_listeners();
        self.io.control.remove_file();
        self.io.pidfile.remove_file();
    }

    /// Checks all files and restores those that are missing, as far as the daemon's privileges allow and
    /// unless it drains.
    fn restore_files(&mut self) {
        if self.io.upkeep.is_none() || self.machine.state() == State::Stopping {
            return;
        }
        self.io.restore_own_files(self.io.files(self.bound.iter().map(|(_, bound)| bound)));
        for index in 0..self.bound.len() {
            let (name, bound) = &mut self.bound[index];
            let Some(new) = self.io.restore_listener(name, bound) else { continue };
            self.io.notifier.renew(name);
            let message = ToWorker::Rebound { name: name.clone(), addr: new.addr().clone() };
            *bound = new;
            self.send(&message, &[self.bound[index].1.as_fd()]);
        }
        self.io.upkeep.iter_mut().for_each(OwnedFiles::end);
        self.store_listeners();
    }

    fn status(&self) -> Status {
        let settings = &self.io.configuration.settings;
        let exe = settings.exe.clone().unwrap_or_else(|| self.io.origin.exe.clone());
        let status = self.io.status(Instant::now());
        let worker = WorkerStatus {
            pid: i32::try_from(status.pid).unwrap_or(0),
            generation: GENERATION,
            state: self.machine.worker_state().as_str().into(),
            uptime: status.uptime,
            text: self.text.clone(),
            ..WorkerStatus::of(self.counters.read(), self.counters.remaining())
        };
        Status {
            mode: "solo".into(),
            state: self.machine.state().to_string(),
            generation: Some(GENERATION),
            ledger: Some(worker.ledger),
            workers: vec![worker],
            listeners: self.bound.iter().map(|(name, b)| ListenerStatus::of(name, b)).collect(),
            image: ImageStatus::of(&self.image, GENERATION, self.serves),
            on_disk: Some(DiskStatus::of(&self.image, exe, &[])),
            ..status
        }
    }
}
