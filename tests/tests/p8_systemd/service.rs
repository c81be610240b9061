//! One systemd service on a machine of the tests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use unbroken_tests::http::{Connection, Response, Target};
use unbroken_tests::{Load, Output, SystemdHost, load};

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The next port. Each machine has a network of its own, so any port is free; each is used once.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// A lock that keeps `daemon-reload` apart from tests that rely on `NRestarts`: systemd 252 forgets that
/// counter when it reads its units again.
static RELOADS: RwLock<()> = RwLock::new(());

/// Locks for a `daemon-reload`.
pub(crate) fn reloads() -> RwLockReadGuard<'static, ()> {
    RELOADS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks against `daemon-reload`, for a test that relies on `NRestarts`.
pub(crate) fn without_reloads() -> RwLockWriteGuard<'static, ()> {
    RELOADS.write().unwrap_or_else(PoisonError::into_inner)
}

/// A service with its program and its port. Dropping it stops the service.
pub(crate) struct Service<'a> {
    pub(crate) machine: &'a SystemdHost,
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// The path of the program: a symbolic link, which a deployment replaces by a rename.
    pub(crate) image: String,
}

impl<'a> Service<'a> {
    /// Deploys a program without installing a unit.
    pub(crate) fn new(machine: &'a SystemdHost, name: &'static str, fixture: &str) -> Service<'a> {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let service = Service { machine, name, port, image: format!("/usr/bin/{name}") };
        service.deploy(fixture);
        service
    }

    /// Deploys a program, installs its unit by `unit --install`, and starts the service.
    #[track_caller]
    pub(crate) fn started(
        machine: &'a SystemdHost,
        name: &'static str,
        fixture: &str,
    ) -> Service<'a> {
        let service = Service::new(machine, name, fixture);
        service.unit(&[], &["--install", "--yes"]).expect_code(0);
        service.systemctl("start").expect_code(0);
        service
    }

    /// Replaces the program by a fixture.
    #[track_caller]
    pub(crate) fn deploy(&self, fixture: &str) {
        let image = &self.image;
        let script =
            format!("ln -s /box/fixture-{fixture} '{image}.new' && mv -fT '{image}.new' '{image}'");
        self.machine.shell(&script).expect_code(0);
    }

    /// Runs the program's verb `unit` with these variables, in addition to those for name and address.
    #[track_caller]
    pub(crate) fn unit(&self, variables: &[(&str, &str)], options: &[&str]) -> Output {
        let mut command = vec!["env".to_owned(), format!("DAEMON_NAME={}", self.name)];
        command.push(format!("DAEMON_LISTEN_HTTP=127.0.0.1:{}", self.port));
        command.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.extend([self.image.clone(), "unit".to_owned()]);
        command.extend(options.iter().map(|&option| option.to_owned()));
        let _reloads = options.contains(&"--install").then(reloads);
        self.machine.run(command)
    }

    /// Adds a drop-in to the unit, as `systemctl edit` does.
    #[track_caller]
    pub(crate) fn edit(&self, lines: &str) {
        let dir = format!("/etc/systemd/system/{}.service.d", self.name);
        let script = format!(
            "mkdir -p {dir} && printf '[Service]\\n%s\\n' '{lines}' > {dir}/test.conf && \
             systemctl daemon-reload"
        );
        let _reloads = reloads();
        self.machine.shell(&script).expect_code(0);
    }

    #[track_caller]
    pub(crate) fn systemctl(&self, verb: &str) -> Output {
        self.machine.run(["systemctl", verb, self.name])
    }

    /// A property of the service in `systemctl show`.
    #[track_caller]
    pub(crate) fn show(&self, property: &str) -> String {
        let output = self.machine.run(["systemctl", "show", "--value", "-p", property, self.name]);
        output.expect_code(0).stdout.trim_end_matches('\n').to_owned()
    }

    pub(crate) fn journal(&self) -> String {
        self.machine.run(["journalctl", "--output", "cat", "--unit", self.name]).stdout
    }

    pub(crate) fn target(&self) -> Target {
        Target::Tcp(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    pub(crate) fn connect(&self) -> std::io::Result<Connection> {
        self.machine.in_network(|| Connection::open(&self.target()))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        let response = self.connect().and_then(|mut connection| connection.get(path));
        response.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn load(&self, with: impl FnOnce(Load) -> Load + Send) -> load::Running {
        self.machine.in_network(|| with(Load::on(self.target())).start())
    }

    /// The version and the generation that answer.
    #[track_caller]
    pub(crate) fn serves(&self) -> (String, u64) {
        let response = self.get("/");
        let text = response.text();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix("version="));
        (version.expect("a version").to_owned(), response.number("generation").expect("a number"))
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.machine.run(["systemctl", "status", "--no-pager", self.name]);
            eprintln!("{status}\n--- journal of {}\n{}---", self.name, self.journal());
        }
        self.machine.run(["systemctl", "stop", "--no-block", self.name]);
    }
}
