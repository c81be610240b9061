//! Solo: a daemon that is one process without a supervisor, with the same pidfile, listeners, signals and
//! drain.
//!
//! [`start`] binds all listeners, then executes the program again, so that user code runs with the
//! program's own arguments in a fresh process. [`resume`] continues after that exec: it starts the
//! [`control_thread`], which does the work of a supervisor, and the rest of the process is a worker like
//! any other.

mod control_thread;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use crate::json::{self, FromJson, ToJson};
use rustix::fs::MemfdFlags;
use unbroken_core::machine::solo::GENERATION;
use unbroken_core::sorted::sort_few;

use self::control_thread::SoloControl;
use crate::claim::Claim;
use crate::config::{Address, Configuration, ListenSettings};
use crate::control::{Clients, ControlSocket, path_of};
use crate::counters::Counters;
use crate::daemon_io::DaemonIo;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::launch::role::{LaunchOrigin, Role, RoleMarker, VARIABLE, adopt};
use crate::launch::startup_pipe::StartupNotifier;
use crate::launch::until_started::UntilStarted;
use crate::link::ListenerHandle;
use crate::listener::{self, Bound, ListenerSource};
use crate::logs::{DaemonLog, LogFile};
use crate::pidfile::PidFile;
use crate::probe;
use crate::sys::exec::{self, Program};
use crate::sys::process;
use crate::sys::signals::SighupAction;
use crate::sys::{descriptors, seqpacket};
use crate::systemd::activation::{self, Sockets};
use crate::systemd::notify;
use crate::worker::SignalOwner;
use crate::worker::lifecycle::{WorkerRuntime, WorkerSetup};

/// The state that the process takes along through its exec, with descriptors by number.
#[derive(Debug, ToJson, FromJson)]
struct SoloState {
    configuration: Configuration,
    origin: LaunchOrigin,
    /// The listeners by name. A name may have several sockets.
    listeners: Vec<(String, SoloListenerState)>,
    pidfile: RawFd,
    claim: Option<RawFd>,
    control: RawFd,
    reporter: Option<RawFd>,
    log: Option<PathBuf>,
    hang_up: SighupAction,
    /// The address and the socket for probes.
    probe: Option<(SocketAddr, RawFd)>,
}

/// A bound listener in the state.
#[derive(Debug, ToJson, FromJson)]
struct SoloListenerState {
    settings: ListenSettings,
    addr: Address,
    source: ListenerSource,
    socket: RawFd,
}

/// Binds the listeners that the service manager did not pass or keep, and executes the program again.
/// Returns only if this fails.
pub(crate) fn start(io: &DaemonIo, sockets: Sockets) -> Result<Infallible> {
    let declared = &io.configuration.settings.listen;
    let Sockets { passed, stored, .. } = sockets;
    let given = passed.into_iter().filter(|(name, _)| declared.contains_key(name)).chain(stored);
    let mut bound: Vec<(String, Bound)> = given.collect();
    for (name, binding) in
        declared.iter().flat_map(|(name, it)| it.each().into_iter().map(move |it| (name, it)))
    {
        let its = || bound.iter().filter(|(its, _)| its == name).map(|(_, bound)| bound);
        if its().any(|it| it.is_managers() || it.is_at(&binding.settings.addr)) {
            continue;
        }
        match listener::bind(name, &binding, its()) {
            Ok(listener) => bound.extend(listener.map(|listener| (name.clone(), listener))),
            Err(error) => {
                unlink(&bound);
                return Err(error);
            }
        }
    }
    sort_few(&mut bound, |(a, _), (b, _)| a < b);
    exec(io, &bound).inspect_err(|_| unlink(&bound))
}

/// Removes the files of the listeners that the daemon bound.
fn unlink(bound: &[(String, Bound)]) {
    for (_, listener) in bound.iter().filter(|(_, it)| it.source() == ListenerSource::Daemon) {
        listener.unlink();
    }
}

/// Executes the program again with the state. Returns only if this fails.
fn exec(io: &DaemonIo, bound: &[(String, Bound)]) -> Result<Infallible> {
    let state = SoloState {
        configuration: io.configuration.clone(),
        origin: io.origin.clone(),
        listeners: bound
            .iter()
            .map(|(name, listener)| {
                let socket = keep(listener.as_fd())?;
                let (settings, addr) = (listener.settings().clone(), listener.addr().clone());
                let source = listener.source();
                Ok((name.clone(), SoloListenerState { settings, addr, source, socket }))
            })
            .collect::<Result<_>>()?,
        pidfile: keep(io.pidfile.as_fd())?,
        claim: io.claim.as_ref().map(|claim| keep(claim.as_fd())).transpose()?,
        control: keep(io.control.as_fd())?,
        reporter: io.reporter.descriptor().map(keep).transpose()?,
        log: io.log.as_ref().map(|log| log.path().to_owned()),
        hang_up: io.hang_up,
        probe: match io.probes.listeners().next() {
            Some((addr, listener)) => Some((addr, keep(listener)?)),
            None => None,
        },
    };
    let packed = pack(&state)?;
    let marker = RoleMarker::text(Role::Solo { state: keep(packed.as_fd())? })?;
    let image = std::fs::File::open("/proc/self/exe").map_err(cannot_exec)?;
    let program = Program {
        image: image.as_fd(),
        args: &io.args,
        vars: &io.vars,
        marker: (VARIABLE, &marker),
    };
    exec::exec(&program).map_err(cannot_exec)
}

fn cannot_exec(error: std::io::Error) -> Error {
    Error::os(ErrorKind::Image, "cannot execute this program again", error)
}

/// Keeps a descriptor open across the exec; returns its number.
fn keep(fd: BorrowedFd<'_>) -> Result<RawFd> {
    descriptors::keep_across_exec(fd)
        .map_err(|error| Error::io("cannot keep a descriptor across exec", error))?;
    Ok(fd.as_raw_fd())
}

fn pack(state: &SoloState) -> Result<std::fs::File> {
    let cannot = |error: std::io::Error| Error::io("cannot write the state for exec", error);
    let fd = rustix::fs::memfd_create("unbroken-state", MemfdFlags::CLOEXEC)
        .map_err(|error| cannot(error.into()))?;
    let mut file = std::fs::File::from(fd);
    let bytes = json::to_vec(state).map_err(|error| cannot(error.into()))?;
    file.write_all(&bytes).and_then(|()| file.rewind()).map_err(cannot)?;
    Ok(file)
}

/// Reads the state from the memfd.
fn unpack(number: RawFd) -> Result<SoloState> {
    let mut bytes = Vec::new();
    std::fs::File::from(adopt(number)?)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("cannot read the state after exec", error))?;
    json::from_slice(&bytes).map_err(|error| Error::io("cannot parse the state after exec", error))
}

/// Continues after the exec: starts the control thread and returns the worker.
pub(crate) fn resume(state: RawFd) -> Result<WorkerRuntime> {
    let state = unpack(state)?;
    let settings = state.configuration.settings.clone();
    let file = state.origin.exe.file_name().and_then(|name| name.to_str());
    process::set_name(file.unwrap_or(&settings.name));
    let pidfile = PidFile::adopt(settings.pidfile.clone(), adopt(state.pidfile)?);
    let control_path = path_of(&settings.runtime_dir, &settings.pidfile);
    let control = ControlSocket::adopt(control_path, adopt(state.control)?);
    let reporter = state.reporter.map(adopt).transpose()?.map(StartupNotifier::new);
    let mut bound = Vec::new();
    for (name, packed) in state.listeners {
        let SoloListenerState { settings, addr, source, socket } = packed;
        bound.push((name, Bound::adopt(settings, adopt(socket)?, addr, source)));
    }
    let say = DaemonLog::new(&settings, state.log.is_some());
    let open = |path| LogFile::open(path, settings.log_mode);
    let log = state.log.as_deref().map(open).transpose()?;
    let (ours, theirs) =
        seqpacket::pair().map_err(|error| Error::io("cannot create a link", error))?;
    let (counters, counters_fd) = Counters::create()
        .map_err(|error| Error::io("cannot create the shared counters", error))?;
    let listeners = bound
        .iter()
        .map(|(name, listener)| {
            let socket = listener.as_fd().try_clone_to_owned();
            let socket = socket
                .map_err(|error| Error::io("cannot duplicate the socket of a listener", error))?;
            let (addr, source) = (listener.addr().clone(), listener.source());
            Ok((ListenerHandle { name: name.clone(), addr, source }, socket))
        })
        .collect::<Result<_>>()?;
    let image = Image::own(&state.origin.exe)?;
    let mut notifier = notify::take()?;
    let stored = bound.iter().filter(|(_, listener)| listener.source() == ListenerSource::Store);
    let held = activation::store_names(stored.map(|(name, listener)| (name, listener)));
    let held = held.into_iter().map(|(stored, (_, bound))| (stored, bound.addr().clone()));
    notifier.set_held(held.collect());
    let io = DaemonIo {
        configuration: state.configuration.clone(),
        origin: state.origin,
        args: Vec::new(),
        vars: Vec::new(),
        control: UntilStarted::started(control),
        pidfile: UntilStarted::started(pidfile),
        claim: state.claim.map(adopt).transpose()?.map(Claim::adopt),
        log,
        reporter: reporter.unwrap_or_default(),
        say,
        hang_up: state.hang_up,
        notifier,
        probes: match state.probe {
            Some((addr, number)) => probe::ProbeServer::adopt(addr, adopt(number)?),
            None => probe::ProbeServer::default(),
        },
        clients: Clients::default(),
        upkeep: None,
        events: VecDeque::new(),
        began: (Instant::now(), SystemTime::now()),
    };
    let control = SoloControl::new(io, image, ours, bound, counters)?;
    let handover = WorkerSetup {
        link: theirs,
        generation: GENERATION,
        configuration: state.configuration,
        counters: counters_fd,
        listeners,
        reattach_socket: None,
    };
    let worker = match WorkerRuntime::new(handover, SignalOwner::Elsewhere) {
        Ok(worker) => worker,
        Err(error) => {
            control.abandon_start(&error);
            return Err(error);
        }
    };
    let thread = control.start()?;
    // This is the only place that sets it, so it cannot fail.
    let _ = worker.state().solo_control.set(Mutex::new(Some(thread)));
    Ok(worker)
}
