//! What all peers have in common.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bed, Child, Process, Signal, eventually};

/// How long a peer may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A peer that can be measured.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// How it is run, as Markdown, where there was a choice.
    pub(crate) options: &'static str,
    /// Its version, or what is missing.
    pub(crate) version: fn() -> Result<String, String>,
    /// Starts release 1.
    pub(crate) start: fn() -> Running,
}

/// What differs from peer to peer.
pub(crate) trait Peer {
    /// Puts a release where the next restart finds it.
    fn deploy(&mut self, at: &Place, release: u64);

    /// Asks for the restart, as its documentation says.
    fn restart(&mut self, at: &Place);

    /// The process that was started, where it is still the one to ask.
    fn root(&self) -> Option<Process>;
}

/// Where a peer lives.
pub(crate) struct Place {
    pub(crate) bed: Bed,
    pub(crate) addr: SocketAddr,
}

impl Place {
    /// A directory, and an address that was free a moment ago: most peers cannot be given port 0.
    pub(crate) fn new() -> Place {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Place { bed: Bed::empty(), addr: listener.local_addr().expect("an address") }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.bed.path(name), text).expect("a file");
    }

    /// Starts a program in the peer's directory.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        Child::spawn(&mut self.bed.command_of(program, arguments))
    }

    /// Runs a program that has to succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) {
        self.spawn(program, arguments).wait(PATIENCE).expect_code(0);
    }
}

/// A peer that runs. Dropped, all its processes are killed.
pub(crate) struct Running {
    pub(crate) place: Place,
    pub(crate) peer: Box<dyn Peer>,
    /// The release that was started last.
    pub(crate) release: u64,
}

impl Running {
    pub(crate) fn new(place: Place, peer: impl Peer + 'static) -> Running {
        Running { place, peer: Box::new(peer), release: 1 }
    }

    pub(crate) fn target(&self) -> Target {
        self.place.addr.into()
    }

    pub(crate) fn wait_serving(&self) {
        let target = self.target();
        let serves = || {
            let response = Connection::open(&target).and_then(|mut it| it.get("/"));
            response.is_ok_and(|response| response.number("generation") == Some(1))
        };
        eventually("the peer serves", PATIENCE, serves);
    }

    pub(crate) fn deploy_next(&mut self) {
        self.release += 1;
        self.peer.deploy(&self.place, self.release);
    }

    pub(crate) fn restart(&mut self) {
        self.peer.restart(&self.place);
    }

    /// Those of its environment, and those of its family: some write over their environment.
    fn processes(&self) -> Vec<Process> {
        let mut processes = self.place.bed.processes();
        for process in self.peer.root().into_iter().flat_map(Process::family) {
            if processes.iter().all(|known| known.pid() != process.pid()) {
                processes.push(process);
            }
        }
        processes
    }

    /// Those that have not ended. One that has is there until somebody asked for its end.
    fn living(&self) -> Vec<Process> {
        let mut processes = self.processes();
        processes.retain(|process| process.memory("Rss").is_some());
        processes
    }

    /// How many processes it takes to serve.
    pub(crate) fn size(&self) -> usize {
        self.living().len()
    }

    /// Waits for the end of the old code's processes, which some keep longer than their connections.
    pub(crate) fn settle(&self, size: usize) {
        let begun = Instant::now();
        while self.size() > size && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        let processes = self.living();
        let sum = |field| processes.iter().filter_map(|process| process.memory(field)).sum();
        Memory { processes: processes.len(), rss: sum("Rss"), pss: sum("Pss") }
    }

    /// Kills it and waits for its end.
    pub(crate) fn end(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        let processes = self.processes();
        processes.iter().for_each(|process| process.signal(Signal::KILL));
    }
}

/// Sums over all processes, in bytes.
pub(crate) struct Memory {
    pub(crate) processes: usize,
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

/// Runs a program for what it says of its version.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The first word that begins with a digit, as versions do.
pub(crate) fn version_in(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c == '/' || c == ')');
    let mut versions = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    versions.next().unwrap_or("?").to_owned()
}

/// What the benchmark builds and installs, beside what cargo builds.
pub(crate) fn built() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(3).expect("a target directory").join("peers")
}
