//! A pseudo terminal with a child on it.

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

/// A terminal, and the child that leads its session. Dropped, it hangs up.
#[derive(Debug)]
pub struct Terminal {
    master: Option<Arc<OwnedFd>>,
    /// Closed, it ends the reader.
    alive: Option<io::PipeWriter>,
    reader: Option<JoinHandle<()>>,
    screen: Arc<Capture>,
    child: Child,
}

impl Terminal {
    /// Starts a command in a session of its own, with this terminal as its controlling terminal
    /// and as its input and outputs.
    pub fn spawn(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo terminal");
        grantpt(&master).expect("a pseudo terminal");
        unlockpt(&master).expect("a pseudo terminal");
        let child = {
            let slave = || Stdio::from(ioctl_tiocgptpeer(&master, flags).expect("its other end"));
            let mut session = Command::new("setsid");
            // Whoever runs the tests may ignore signals, as nohup(1) does and a shell for what is in its
            // background; a login does not.
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

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.screen.text()
    }

    /// Waits until a text is on the screen.
    ///
    /// # Panics
    ///
    /// If it is not in time.
    #[track_caller]
    pub fn wait_for(&self, text: &str, within: Duration) {
        let found = self.screen.wait(within, |screen| screen.contains(text));
        assert!(found, "no `{text}` on the screen:\n{}", self.screen());
    }

    /// Types; `"\x03"` is Ctrl-C.
    pub fn keys(&self, keys: &str) {
        let master = self.master.as_ref().expect("a terminal that has not hung up");
        rustix::io::write(master, keys.as_bytes()).expect("a terminal");
    }

    /// Closes the terminal, as its window would be closed.
    pub fn hang_up(&mut self) {
        drop(self.alive.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        drop(self.master.take());
    }

    /// Waits for the end of the session's leader. What it wrote is taken for standard output.
    #[track_caller]
    pub fn wait(mut self, within: Duration) -> Output {
        self.child.process().wait_gone(within);
        // What is still on its way to the screen.
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
                // Everybody on the other end is gone (EIO).
                Ok(0) | Err(_) => break,
            }
        } else if !fds[1].revents().is_empty() {
            break;
        }
    }
    screen.close();
}
