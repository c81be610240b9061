//! A pseudo terminal with a child process on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::child::Capture;
use crate::{Child, Output};

/// A terminal, and the child that leads its session. Dropping it hangs up.
#[derive(Debug)]
pub struct Terminal {
    master: Option<Arc<OwnedFd>>,
    /// The end of a pipe that stops the reader when it is closed.
    alive: Option<io::PipeWriter>,
    reader: Option<JoinHandle<()>>,
    screen: Arc<Capture>,
    child: Child,
}

impl Terminal {
    /// Starts a command in a session of its own, with a new terminal as its controlling terminal and as
    /// its input and outputs.
    pub fn spawn(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo terminal");
        grantpt(&master).expect("a pseudo terminal");
        unlockpt(&master).expect("a pseudo terminal");
        let child = {
            let slave = || Stdio::from(ioctl_tiocgptpeer(&master, flags).expect("its other end"));
            let mut session = Command::new("setsid");
            // The tests may run with ignored signals, under nohup(1) or in the background of a shell, and the
            // child would inherit that. A login session ignores none.
            session.args(["--ctty", "--wait", "env", "--default-signal"]);
            session.arg(command.get_program()).args(command.get_args());
            session.env_clear();
            for (name, value) in command.get_envs() {
                if let Some(value) = value {
                    session.env(name, value);
                }
            }
            if let Some(dir) = command.get_current_dir() {
                session.current_dir(dir);
            }
            session.stdin(slave()).stdout(slave()).stderr(slave());
            Child::spawn_as_is(&mut session)
        };
        let master = Arc::new(master);
        let screen = Arc::new(Capture::default());
        let (ended, alive) = io::pipe().expect("a pipe");
        let reader = std::thread::spawn({
            let (master, screen) = (Arc::clone(&master), Arc::clone(&screen));
            move || read(&master, &ended, &screen)
        });
        let (alive, reader) = (Some(alive), Some(reader));
        Self { master: Some(master), alive, reader, screen, child }
    }

    /// The session's leader.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Everything written to the terminal so far.
    pub fn screen(&self) -> String {
        self.screen.text()
    }

    /// Waits until a text was written to the terminal.
    ///
    /// # Panics
    ///
    /// If it was not within the given time.
    #[track_caller]
    pub fn wait_for(&self, text: &str, within: Duration) {
        let found = self.screen.wait(within, |screen| screen.contains(text));
        assert!(found, "no `{text}` on the screen:\n{}", self.screen());
    }

    /// Types keys; `"\x03"` is Ctrl-C.
    pub fn keys(&self, keys: &str) {
        let master = self.master.as_ref().expect("a terminal that has not hung up");
        rustix::io::write(master, keys.as_bytes()).expect("a terminal");
    }

    /// Closes the terminal, as when its window is closed.
    pub fn hang_up(&mut self) {
        drop(self.alive.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        drop(self.master.take());
    }

    /// Waits for the end of the session's leader. The output has everything written to the terminal as
    /// `stdout`.
    #[track_caller]
    pub fn wait(mut self, within: Duration) -> Output {
        self.child.process().wait_gone(within);
        // Gives the reader time for output that is still in the terminal's buffer.
        self.screen.wait(Duration::from_millis(200), |_| false);
        self.hang_up();
        let Self { screen, child, .. } = &mut self;
        let mut output = child.end(within);
        output.stdout = screen.text();
        output
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn read(master: &OwnedFd, ended: &io::PipeReader, screen: &Capture) {
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if !fds[0].revents().is_empty() {
            match rustix::io::read(master, &mut buffer) {
                Ok(read @ 1..) => screen.push(&buffer[..read]),
                // No process has the other end open (EIO).
                Ok(0) | Err(_) => break,
            }
        } else if !fds[1].revents().is_empty() {
            break;
        }
    }
    screen.close();
}
