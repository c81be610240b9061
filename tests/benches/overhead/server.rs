//! The processes of the servers that are compared.

use std::time::Duration;

use unbroken_tests::http::Target;
use unbroken_tests::{Child, Process, Sandbox};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, possibly under another program such as valgrind.
pub(crate) struct Server {
    pub(crate) sandbox: Sandbox,
    pub(crate) child: Child,
    pub(crate) target: Target,
}

impl Server {
    pub(crate) fn bare(under: &[&str]) -> Server {
        let sandbox = Sandbox::new("bare-http");
        let child = spawn(&sandbox, under, &[]);
        child.wait_for_stdout("\n", PATIENCE);
        let target = child.stdout().trim().parse().expect("an address");
        Server { sandbox, child, target }
    }

    pub(crate) fn daemon(under: &[&str]) -> Server {
        Self::daemon_of("hello", under)
    }

    pub(crate) fn solo(under: &[&str]) -> Server {
        Self::daemon_of("hello-solo", under)
    }

    fn daemon_of(fixture: &str, under: &[&str]) -> Server {
        let sandbox = Sandbox::new(fixture);
        let child = spawn(&sandbox, under, &["run"]);
        sandbox.wait_serving();
        let target = sandbox.target("http");
        Server { sandbox, child, target }
    }

    /// The processor time of all processes of the server.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.sandbox.processes().iter().filter_map(Process::cpu_time).sum()
    }
}

/// Starts the sandbox's program, under the program `under` if there is one.
fn spawn(sandbox: &Sandbox, under: &[&str], arguments: &[&str]) -> Child {
    let image = sandbox.image().display().to_string();
    let mut words = under.iter().copied().chain([image.as_str()]).chain(arguments.iter().copied());
    let program = words.next().expect("a program");
    Child::spawn(&mut sandbox.command_of(program, words))
}
