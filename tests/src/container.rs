//! A container without a container engine: namespaces for processes, mounts and network, and a read-only
//! root with the program, its libraries and little else.
//!
//! `unshare(1)` creates the namespaces, a shell script mounts the root, and the fixture `container` enters
//! the root and executes the daemon as PID 1.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sandbox::fixture_path;
use crate::{Child, Output, Process, Sandbox, Status, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The path in the container at which the sandbox's directory is mounted, read-only as in a deployment.
pub const MOUNTED: &str = "/srv";

/// The settings of a container.
#[derive(Debug, Clone)]
pub struct Container {
    /// The directories on a tmpfs; everything else is read-only.
    pub tmpfs: Vec<&'static str>,
    /// The mount options of `/proc`, `rw` or `ro`; `None` leaves `/proc` unmounted.
    pub proc: Option<&'static str>,
    /// The user id that runs the program.
    pub user: u32,
}

/// A container that runs. The daemon is its PID 1.
#[derive(Debug)]
pub struct Running {
    /// The process of `unshare(1)`, which ends with the status of the container's PID 1.
    pub child: Child,
    /// The container's PID 1, as the host sees it.
    pub first: Process,
    root: PathBuf,
}

impl Default for Container {
    fn default() -> Self {
        Container { tmpfs: vec!["/run"], proc: Some("rw"), user: 0 }
    }
}

/// Returns what keeps containers from running on this machine, if anything does.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a container needs root".into());
    }
    let tools = ["unshare", "nsenter", "mount", "ldd", "ip"];
    let lacks = |tool: &&&str| {
        let path = std::env::var("PATH").unwrap_or_default();
        !path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(tool).exists())
    };
    if let Some(tool) = tools.iter().find(lacks) {
        return Some(format!("a container needs {tool}, which is not installed"));
    }
    let probe =
        Command::new("unshare").args(["--mount", "--pid", "--net", "--fork", "true"]).output();
    match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Some(format!("no namespaces: {error}")),
    }
}

impl Container {
    /// Starts the image of `sandbox` as PID 1 of a container, with these arguments.
    pub fn spawn(&self, sandbox: &mut Sandbox, arguments: &[&str]) -> Child {
        for name in ["DAEMON_RUNTIME_DIR", "DAEMON_PIDFILE", "DAEMON_LOG"] {
            sandbox.unset(name);
        }
        // A fixed port cannot collide: the container has a loopback interface of its own.
        sandbox.set("DAEMON_LISTEN_HTTP", "127.0.0.1:8080");
        let root = furnish(sandbox);
        let mut script = String::from(
            "set -e; export PATH=\"$PATH:/usr/sbin:/sbin\"; root=$1; sandbox=$2; shift 2; ip link set lo up; \
             mount --bind \"$root\" \"$root\"; mount --bind /dev/null \"$root/dev/null\"; \
             mount --bind \"$sandbox\" \"$root/srv\"; mount -o remount,bind,ro \"$root/srv\"; ",
        );
        for dir in &self.tmpfs {
            script += &format!("mount -t tmpfs -o mode=1777 none \"$root{dir}\"; ");
        }
        if let Some(options) = self.proc {
            script += &format!("mount -t proc -o {options} none \"$root/proc\"; ");
        }
        script += "mount -o remount,bind,ro \"$root\"; exec \"$@\"";
        let program = format!("{MOUNTED}/app");
        let mut command = sandbox.command_of(
            "unshare",
            ["--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"],
        );
        command.args(["sh", "-c", &script, "sh"]).arg(&root).arg(sandbox.dir());
        command.arg(fixture_path("container")).arg("enter").arg(&root);
        command.arg(self.user.to_string()).arg(program).args(arguments);
        Child::spawn(&mut command)
    }

    /// Calls [`spawn`](Self::spawn) and waits until the daemon serves. From then on the calling thread is in
    /// the container's network namespace, with every process and thread that it starts.
    #[track_caller]
    pub fn run(&self, sandbox: &mut Sandbox) -> Running {
        let child = self.spawn(sandbox, &[]);
        child.wait_for_stderr("serves", SOON);
        let first = child.process().children().pop().expect("a first process");
        let network =
            std::fs::File::open(format!("/proc/{}/ns/net", first.pid())).expect("a network");
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&network),
            Some(LinkNameSpaceType::Network),
        )
        .expect("a network to enter");
        Running { child, first, root: sandbox.path("root") }
    }
}

impl Running {
    /// A command that runs a program in the container, as `docker exec` does.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.pid().to_string()]);
        command.args(["--mount", "--pid", "--net"]).args(arguments).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        command
    }

    /// Runs a verb in the container, with the program in its `/bin`.
    #[track_caller]
    pub fn verb(&self, arguments: &[&str]) -> Output {
        let arguments = [&["/bin/app"], arguments].concat();
        Child::spawn(&mut self.command(&arguments)).wait(SOON)
    }

    /// Runs `status --json` in the container.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.verb(&["status", "--json"]).expect_code(0);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
    }

    /// Waits until PID 1 has exactly one child, which is not a zombie.
    #[track_caller]
    pub fn wait_alone_with_worker(&self) {
        eventually("one child is left", SOON, || {
            let children = self.first.children();
            children.len() == 1 && children[0].state() != Some('Z')
        });
    }

    /// The root directory as the host sees it, without the file systems that are mounted in it.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Creates the root directory: the program, the fixture `container`, and the libraries of both.
fn furnish(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.path("root");
    let script = "set -e; root=$1; shift; \
         for dir in bin dev proc run tmp srv; do mkdir -p \"$root/$dir\"; done; : > \"$root/dev/null\"; \
         cp \"$1\" \"$root/bin/app\"; cp \"$2\" \"$root/bin/container\"; \
         ldd \"$1\" \"$2\" | grep -o '/[^ ]*' | grep -v ':$' | sort -u | while read -r library; do \
           mkdir -p \"$root$(dirname \"$library\")\"; cp -L \"$library\" \"$root$library\"; done";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(&root);
    command.arg(fixture_path("http")).arg(fixture_path("container"));
    Child::spawn(&mut command).wait(SOON).expect_code(0);
    root
}
