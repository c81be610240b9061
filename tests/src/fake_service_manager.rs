//! The protocols of a service manager: sd_listen_fds(3), and sd_notify(3) with the fd store.
//!
//! The fixture `given` starts the daemon with descriptors from 3 on, as systemd does: the daemon is executed
//! in the process that `LISTEN_PID` names.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::sandbox::fixture_path;
use crate::{Child, Sandbox};

/// The time in which a daemon must send an expected notification.
const SOON: Duration = Duration::from_secs(20);

/// A service manager. A thread receives notifications and stores the descriptors sent with them. The test
/// adds the sockets of units.
#[derive(Debug)]
pub struct FakeServiceManager {
    /// The sockets of `.socket` units, with the names that the units give them.
    pub units: Vec<(String, OwnedFd)>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<String>,
    stored: Vec<(String, OwnedFd)>,
}

impl FakeServiceManager {
    /// Binds the notification socket and announces it to the processes of `sandbox`. The store has room for
    /// `room` descriptors; zero announces no store.
    pub fn of(sandbox: &mut Sandbox, room: usize) -> FakeServiceManager {
        let path = sandbox.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        sandbox.set("NOTIFY_SOCKET", path.display().to_string());
        if room > 0 {
            sandbox.set("FDSTORE", room.to_string());
        }
        let heard = Arc::new(Heard::default());
        let theirs = Arc::clone(&heard);
        std::thread::spawn(move || {
            while let Some((text, fds)) = receive(&socket) {
                theirs.hear(text, fds);
            }
        });
        FakeServiceManager { units: Vec::new(), heard }
    }

    /// Starts the daemon of `sandbox` in the foreground, with the descriptors of the units and of the store.
    pub fn run(&self, sandbox: &Sandbox) -> Child {
        self.spawn(sandbox, &["run"])
    }

    /// Calls [`run`](Self::run) and waits until the daemon reports `READY=1`.
    #[track_caller]
    pub fn serve(&self, sandbox: &Sandbox) -> Child {
        let begun = self.message_count();
        let child = self.run(sandbox);
        self.wait("ready", |state| {
            assert!(child.process().is_alive(), "it has ended: {}", child.stderr());
            state.messages[begun..].iter().any(|message| message.contains("READY=1"))
        });
        child
    }

    /// Starts the image of `sandbox` with these arguments, and the descriptors of the units and of the store.
    pub fn spawn(&self, sandbox: &Sandbox, arguments: &[&str]) -> Child {
        let state = self.heard.state.lock().unwrap_or_else(PoisonError::into_inner);
        // No order is promised. Stored descriptors come first here.
        let given: Vec<_> = state.stored.iter().chain(&self.units).collect();
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        let fds: Vec<BorrowedFd<'_>> = given.iter().map(|(_, fd)| fd.as_fd()).collect();
        give(sandbox, arguments, &names.join(":"), &fds)
    }

    /// The number of notifications received so far.
    pub fn message_count(&self) -> usize {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).messages.len()
    }

    /// All notifications received so far.
    pub fn messages(&self) -> Vec<String> {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).messages.clone()
    }

    /// The names of the stored descriptors.
    pub fn stored(&self) -> Vec<String> {
        let state = self.heard.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stored.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Closes the stored descriptors, as a service manager does at the end of a service. A child that another
    /// test is about to exec may hold copies for a moment, so a listener may close a little later.
    pub fn discard(&self) {
        self.heard.state.lock().unwrap_or_else(PoisonError::into_inner).stored.clear();
    }

    /// Stores a descriptor that the daemon did not send.
    pub fn store(&self, name: &str, fd: OwnedFd) {
        let mut state = self.heard.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stored.push((name.to_owned(), fd));
    }

    /// Waits for a notification that contains `text`, after the first `begun` ones.
    ///
    /// # Panics
    ///
    /// If there is none in time.
    #[track_caller]
    pub fn hears_after(&self, begun: usize, text: &str) {
        self.wait(text, |state| {
            state.messages[begun..].iter().any(|message| message.contains(text))
        });
    }

    /// Waits until the stored descriptors have exactly these names, which must be sorted.
    ///
    /// # Panics
    ///
    /// If they do not in time.
    #[track_caller]
    pub fn keeps(&self, names: &[&str]) {
        self.wait("kept", |state| {
            let mut stored: Vec<&str> =
                state.stored.iter().map(|(name, _)| name.as_str()).collect();
            stored.sort_unstable();
            stored == names
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, is: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut state = self.heard.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !is(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not in time: {what}: {state:#?}");
            let waited = self.heard.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts the image of `sandbox` with these arguments and descriptors, and `names` as `LISTEN_FDNAMES`.
pub fn give(sandbox: &Sandbox, arguments: &[&str], names: &str, fds: &[BorrowedFd<'_>]) -> Child {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a pair of sockets");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
    }
    let names = if names.is_empty() { "no names" } else { names };
    let parts = [IoSlice::new(names.as_bytes())];
    sendmsg(&ours, &parts, &mut control, SendFlags::empty()).expect("sent");
    let image = sandbox.image();
    let arguments = [image.as_os_str()].into_iter().chain(arguments.iter().map(AsRef::as_ref));
    let mut command = sandbox.command_of(fixture_path("given"), arguments);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    Child::spawn_as_is(&mut command)
}

impl Heard {
    fn hear(&self, text: String, fds: Vec<OwnedFd>) {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = field("FDNAME").unwrap_or_else(|| "stored".into());
        if field("FDSTOREREMOVE").is_some() {
            state.stored.retain(|(stored, _)| *stored != name);
        } else if field("FDSTORE").is_some() {
            state.stored.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
        }
        // The descriptor of a `BARRIER=1` message is dropped here, which releases the daemon that waits for
        // it.
        state.messages.push(text);
        self.changed.notify_all();
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(its) = message {
            fds.extend(its);
        }
    }
    Some((String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), fds))
}
