//! The processes of the servers that are compared.

use std::time::Duration;

use unbroken_tests::http::Target;
use unbroken_tests::{Bed, Child, Process};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, possibly under another program such as valgrind.
pub(crate) struct Server {
    pub(crate) bed: Bed,
    pub(crate) child: Child,
    pub(crate) target: Target,
}

impl Server {
    pub(crate) fn bare(under: &[&str]) -> Server {
        let bed = Bed::new("bare-http");
        let child = spawn(&bed, under, &[]);
        child.wait_for_stdout("\n", PATIENCE);
        let target = child.stdout().trim().parse().expect("an address");
        Server { bed, child, target }
    }

    pub(crate) fn daemon(under: &[&str]) -> Server {
        Self::daemon_of("hello", under)
    }

    pub(crate) fn solo(under: &[&str]) -> Server {
        Self::daemon_of("hello-solo", under)
    }

    fn daemon_of(fixture: &str, under: &[&str]) -> Server {
        let bed = Bed::new(fixture);
        let child = spawn(&bed, under, &["run"]);
        bed.wait_serving();
        let target = bed.target("http");
        Server { bed, child, target }
    }

    /// The processor time of all processes of the server.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.bed.processes().iter().filter_map(Process::cpu_time).sum()
    }
}

/// Starts the bed's program, under the program `under` if there is one.
fn spawn(bed: &Bed, under: &[&str], arguments: &[&str]) -> Child {
    let image = bed.image().display().to_string();
    let mut words = under.iter().copied().chain([image.as_str()]).chain(arguments.iter().copied());
    let program = words.next().expect("a program");
    Child::spawn(&mut bed.command_of(program, words))
}
