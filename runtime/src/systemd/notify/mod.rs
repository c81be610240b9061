//! `sd_notify(3)`: notifies the service manager of the daemon's state.
//!
//! One datagram per change, to the unix socket that `NOTIFY_SOCKET` names. Sending never waits. The queue of
//! that socket is short (`net.unix.max_dgram_qlen`, 10 by default) and shared by all services, and systemd
//! does not read it while it reloads: messages that find the queue full are sent again soon, in order.
//!
//! [`store`] is the part of the protocol that has the manager keep listeners.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

pub(crate) use unbroken_core::health::{Health, ServicePhase};

use crate::error::Result;
use crate::sys::{clock, process};
use crate::systemd::activation;

mod store;

/// Variables that are meant for the daemon, and are not passed on to its workers.
const PRIVATE: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"];

/// Returns whether a variable is meant for the daemon alone.
pub(crate) fn is_private(name: &OsStr) -> bool {
    PRIVATE.iter().any(|private| name == *private) || activation::is_of_protocol(name)
}

/// Takes the manager's variables out of the environment of a process in which user code is about to run.
pub(crate) fn take() -> Result<Notifier> {
    let notifier = Notifier::new(&process::variables(), None, VecDeque::new());
    PRIVATE.iter().try_for_each(|name| process::remove_variable(name))?;
    Ok(notifier)
}

/// How long a message waits that found the socket of the service manager full. The manager reads in
/// milliseconds; a watchdog ping must not wait much longer.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Notifies the service manager; does nothing where there is none.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    manager: Option<ServiceManager>,
    /// The last state that was reported, whether its message is sent or pending.
    reported: Option<Health>,
    /// Messages that are not sent yet, oldest first.
    pending: VecDeque<String>,
    /// When to try again to send pending messages, and listeners to the fd store.
    retry: Option<Instant>,
    store: store::Store,
}

#[derive(Debug)]
struct ServiceManager {
    socket: UnixDatagram,
    addr: SocketAddr,
    /// The interval of keep-alive messages, and when the next one is due.
    watchdog: Option<(Duration, Instant)>,
}

impl Notifier {
    /// A notifier for the manager that `vars` name, if any. `reported` is the last state that was reported
    /// before an exec, and `pending` are the messages that were not sent by then.
    pub(crate) fn new(
        vars: &[(OsString, OsString)],
        reported: Option<Health>,
        pending: VecDeque<String>,
    ) -> Notifier {
        let var = |name: &str| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let manager = var("NOTIFY_SOCKET").and_then(|path| {
            let addr = address(path).ok()?;
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            let number = |name: &str| var(name)?.to_str()?.parse::<u64>().ok();
            let ours =
                number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
            // Half of the limit, as sd_watchdog_enabled(3) recommends.
            let every = number("WATCHDOG_USEC").map(|limit| Duration::from_micros(limit / 2));
            let every = every.filter(|every| ours && !every.is_zero());
            let watchdog = every.map(|every| (every, Instant::now()));
            Some(ServiceManager { socket, addr, watchdog })
        });
        let retry = (!pending.is_empty()).then(Instant::now);
        Notifier { manager, reported, pending, retry, store: store::Store::new(vars) }
    }

    /// The last state that was reported.
    pub(crate) fn reported(&self) -> Option<&Health> {
        self.reported.as_ref()
    }

    /// The messages that are not sent yet.
    pub(crate) fn pending(&self) -> &VecDeque<String> {
        &self.pending
    }

    /// Reports the state, if it differs from the last one.
    pub(crate) fn tell(&mut self, health: Health) {
        if self.manager.is_none() || self.reported.as_ref() == Some(&health) {
            return;
        }
        let message = message(self.reported.as_ref(), &health, clock::monotonic_us());
        self.reported = Some(health);
        // A pending message with nothing but a status line is replaced: only the latest line matters.
        let is_text = |message: &String| message.starts_with("STATUS=");
        if is_text(&message) && self.pending.back().is_some_and(is_text) {
            self.pending.pop_back();
        }
        self.pending.push_back(message);
        if self.retry.is_none() {
            self.flush();
        }
    }

    /// Like [`Notifier::tell`], but tries to send at once even if an earlier message is waiting for its next
    /// attempt: the process is about to end.
    pub(crate) fn tell_last(&mut self, health: Health) {
        self.retry = None;
        self.tell(health);
    }

    /// Returns whether it is time for another attempt: the caller then calls [`Notifier::keep`] and
    /// [`Notifier::flush`].
    pub(crate) fn retries(&mut self, now: Instant) -> bool {
        self.retry.take_if(|at| *at <= now).is_some()
    }

    /// Sends the pending messages, unless they have to wait for the next attempt.
    pub(crate) fn flush(&mut self) {
        let Some(manager) = &self.manager else { return };
        while self.retry.is_none()
            && let Some(message) = self.pending.front()
        {
            match manager.send(message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.retry = Some(Instant::now() + RETRY_DELAY);
                }
                // Any other error means that the manager is gone, and the message with it.
                Ok(()) | Err(_) => drop(self.pending.pop_front()),
            }
        }
    }

    /// Sends the keep-alive message of the watchdog when it is due. Sends none if `is_well` is false: the
    /// manager then kills and restarts the daemon.
    pub(crate) fn keep_alive(&mut self, now: Instant, is_well: bool) {
        let Some(manager) = &mut self.manager else { return };
        let Some((every, next)) = &mut manager.watchdog else { return };
        if *next > now {
            return;
        }
        *next = now + *every;
        let message = if is_well { "WATCHDOG=1\n" } else { return };
        let sent = manager.socket.send_to_addr(message.as_bytes(), &manager.addr);
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            *next = now + RETRY_DELAY.min(*every);
        }
    }

    /// The time at which [`Notifier::keep_alive`] or [`Notifier::retries`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let watchdog = self.manager.as_ref()?.watchdog.map(|(_, next)| next);
        watchdog.into_iter().chain(self.retry).min()
    }
}

impl ServiceManager {
    fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.addr).map(drop)
    }
}

/// The address in `NOTIFY_SOCKET`: an abstract name behind `@`, or an absolute path.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(path),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// The message for a change of state.
fn message(before: Option<&Health>, now: &Health, monotonic_us: u64) -> String {
    let mut text = String::new();
    // A restart that was requested during another one begins without a phase in between, but `systemctl
    // reload` waits for a RELOADING=1 of its own, and then for READY=1.
    let one_more = now.reload.is_some() && before.is_some_and(|before| before.reload != now.reload);
    let before = before.map_or(ServicePhase::Starting, |before| before.phase);
    if before != now.phase || (now.phase == ServicePhase::Reloading && one_more) {
        match now.phase {
            ServicePhase::Starting => {}
            ServicePhase::Running => text += "READY=1\n",
            ServicePhase::Reloading if before == ServicePhase::Starting => {}
            ServicePhase::Reloading => {
                text += &format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}\n")
            }
            ServicePhase::Stopping => {
                let limit = now.ends_within.as_micros();
                text += &format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}\n");
            }
        }
    }
    // The text may contain what the program reports of itself: a line break in it would begin another field.
    text += &format!("STATUS={}\n", now.text.replace(['\n', '\0'], " "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(phase: ServicePhase, text: &str) -> Health {
        Health { phase, text: text.into(), reload: None, ends_within: Duration::from_secs(35) }
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_change_is_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let vars = [("NOTIFY_SOCKET".into(), path.into_os_string())];
        let mut notifier = Notifier::new(&vars, None, VecDeque::new());
        notifier.tell(health(ServicePhase::Starting, "starts"));
        assert_eq!(heard(&socket), "STATUS=starts\n");
        notifier.tell(health(ServicePhase::Running, "generation 1 serves"));
        assert_eq!(heard(&socket), "READY=1\nSTATUS=generation 1 serves\n");
        notifier.tell(health(ServicePhase::Running, "generation 1 serves"));
        assert!(socket.recv(&mut [0]).is_err());
        notifier.tell(health(ServicePhase::Reloading, "a restart\nis in progress"));
        let text = heard(&socket);
        let fields: Vec<&str> = text.lines().collect();
        assert_eq!((fields[0], fields[2]), ("RELOADING=1", "STATUS=a restart is in progress"));
        assert!(fields[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0);
        // Another image goes on where this one was.
        let mut next = Notifier::new(&vars, notifier.reported().cloned(), VecDeque::new());
        next.tell(health(ServicePhase::Running, "generation 2 serves"));
        assert_eq!(heard(&socket), "READY=1\nSTATUS=generation 2 serves\n");
        next.tell(health(ServicePhase::Stopping, "stops"));
        assert_eq!(heard(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=stops\n");
        assert_eq!(next.deadline(), None);
    }

    #[test]
    fn pending_messages_are_sent_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let mut others = 0;
        while other.send_to(b"other", &path).is_ok() {
            others += 1;
        }
        let vars = [("NOTIFY_SOCKET".into(), path.into_os_string())];
        let mut notifier = Notifier::new(&vars, None, VecDeque::new());
        notifier.tell(health(ServicePhase::Starting, "starts"));
        notifier.tell(health(ServicePhase::Running, "one"));
        notifier.tell(health(ServicePhase::Running, "two"));
        notifier.tell(health(ServicePhase::Running, "three"));
        let due = notifier.deadline().unwrap();
        assert!(!notifier.retries(due - Duration::from_millis(1)));
        // Still without room.
        assert!(notifier.retries(due));
        notifier.flush();
        (0..others).for_each(|_| assert_eq!(heard(&socket), "other"));
        // Another image goes on where this one was.
        let (reported, pending) = (notifier.reported().cloned(), notifier.pending().clone());
        let mut next = Notifier::new(&vars, reported, pending);
        assert!(next.retries(next.deadline().unwrap()));
        next.flush();
        assert_eq!(heard(&socket), "STATUS=starts\n");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=one\n");
        assert_eq!(heard(&socket), "STATUS=three\n");
        assert_eq!((next.deadline(), next.pending().len()), (None, 0));
    }

    #[test]
    fn consecutive_restarts_are_each_announced() {
        let reloading = |reload| Health { reload, ..health(ServicePhase::Reloading, "restarts") };
        let message = |before: &Health, now: &Health| message(Some(before), now, 7);
        let announced = "RELOADING=1\nMONOTONIC_USEC=7\nSTATUS=restarts\n";
        let (running, two, three) =
            (health(ServicePhase::Running, "runs"), reloading(Some(2)), reloading(Some(3)));
        assert_eq!(message(&running, &two), announced);
        assert_eq!(message(&two, &three), announced);
        // Its end, while the supervisor becomes the new image, is no beginning.
        assert_eq!(message(&three, &reloading(None)), "STATUS=restarts\n");
        assert_eq!(message(&three, &running), "READY=1\nSTATUS=runs\n");
    }

    #[test]
    fn watchdog_is_kept_alive_over_abstract_socket() {
        let name = format!("unbroken-notify-test-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let socket = UnixDatagram::bind_addr(&addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        let own = std::process::id().to_string();
        let vars = |pid: &str| {
            [
                ("NOTIFY_SOCKET", format!("@{name}")),
                ("WATCHDOG_USEC", "2000000".into()),
                ("WATCHDOG_PID", pid.into()),
            ]
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        };
        assert_eq!(Notifier::new(&vars("1"), None, VecDeque::new()).deadline(), None);
        let mut notifier = Notifier::new(&vars(&own), None, VecDeque::new());
        let due = notifier.deadline().unwrap();
        notifier.keep_alive(due, true);
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        assert_eq!(notifier.deadline(), Some(due + Duration::from_secs(1)));
        notifier.keep_alive(due + Duration::from_secs(1), false);
        assert!(socket.recv(&mut [0]).is_err());
    }

    #[test]
    fn unusable_notify_socket_is_ignored() {
        for path in ["", "relative", "vsock:2:1"] {
            let mut notifier =
                Notifier::new(&[("NOTIFY_SOCKET".into(), path.into())], None, VecDeque::new());
            notifier.tell(health(ServicePhase::Running, "generation 1 serves"));
            notifier.keep_alive(Instant::now(), true);
            assert_eq!((notifier.reported(), notifier.deadline()), (None, None));
        }
        assert!(is_private(OsStr::new("NOTIFY_SOCKET")) && !is_private(OsStr::new("PATH")));
    }
}
