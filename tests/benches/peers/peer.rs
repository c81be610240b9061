//! The parts that all peers share.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Child, Process, Sandbox, Signal, eventually};

/// The time that a peer may take for any operation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The description of a peer.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The options with which it runs, as Markdown.
    pub(crate) options: &'static str,
    /// Returns its version, or what is missing.
    pub(crate) version: fn() -> Result<String, String>,
    /// Starts release 1.
    pub(crate) start: fn() -> Running,
}

/// The operations that differ from peer to peer.
pub(crate) trait Peer {
    /// Installs a release for the next restart.
    fn deploy(&mut self, at: &Place, release: u64);

    /// Requests a restart in the way that the peer's documentation describes.
    fn restart(&mut self, at: &Place);

    /// The process that was started, if it is still the root of the peer's processes.
    fn root(&self) -> Option<Process>;
}

/// The directory and the address of a peer.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    pub(crate) addr: SocketAddr,
}

impl Place {
    /// Creates a directory and finds a free address. Most peers do not support port 0.
    pub(crate) fn new() -> Place {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Place { sandbox: Sandbox::empty(), addr: listener.local_addr().expect("an address") }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.sandbox.path(name), text).expect("a file");
    }

    /// Starts a program in the peer's directory.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        Child::spawn(&mut self.sandbox.command_of(program, arguments))
    }

    /// Runs a program, which must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) {
        self.spawn(program, arguments).wait(PATIENCE).expect_code(0);
    }
}

/// A peer that runs. Dropping it kills all its processes.
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

    /// The processes of the peer: those with its environment, and all descendants, because some programs
    /// overwrite their environment.
    fn processes(&self) -> Vec<Process> {
        let mut processes = self.place.sandbox.processes();
        for process in self.peer.root().into_iter().flat_map(Process::family) {
            if processes.iter().all(|known| known.pid() != process.pid()) {
                processes.push(process);
            }
        }
        processes
    }

    /// The processes that have not ended. Zombies have no memory.
    fn living(&self) -> Vec<Process> {
        let mut processes = self.processes();
        processes.retain(|process| process.memory("Rss").is_some());
        processes
    }

    /// The number of living processes.
    pub(crate) fn size(&self) -> usize {
        self.living().len()
    }

    /// Waits for the end of the processes with old code, which some peers keep longer than their connections.
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

    /// Kills the peer by dropping it.
    pub(crate) fn end(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        let processes = self.processes();
        processes.iter().for_each(|process| process.signal(Signal::KILL));
    }
}

/// The memory of all processes together, in bytes.
pub(crate) struct Memory {
    pub(crate) processes: usize,
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

/// Runs a program and returns its output, in which its version is.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the first word that begins with a digit, as versions do.
pub(crate) fn version_in(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c == '/' || c == ')');
    let mut versions = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    versions.next().unwrap_or("?").to_owned()
}

/// The directory of the peers that the benchmark builds or `install` installs.
pub(crate) fn built() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(3).expect("a target directory").join("peers")
}
