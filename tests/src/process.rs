//! A process held by a pidfd, so a PID that the kernel has reused is never mistaken for it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process: a child of the test or any other.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// Opens a process. Returns `None` if there is none with this PID.
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let fd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// Returns all processes that were executed with this variable in their environment.
    pub fn with_variable(name: &str, value: &str) -> Vec<Self> {
        let wanted = format!("{name}={value}").into_bytes();
        let carries = |pid: u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == wanted)
        };
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| carries(*pid))
            .filter_map(Self::open)
            // Read again: the kernel may have reused the PID before it was opened.
            .filter(|process| carries(process.pid) && process.is_alive())
            .collect()
    }

    /// The PID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether the process has not ended. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        !self.wait_gone(Duration::ZERO)
    }

    /// Sends a signal. Does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("signal {signal:?} to {}: {error}", self.pid),
        }
    }

    /// Kills the process and waits for its end.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        assert!(self.wait_gone(Duration::from_secs(10)), "{self:?} survives SIGKILL");
    }

    /// Waits for the end of the process. Returns `false` if it has not ended in time.
    pub fn wait_gone(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a deadline within the clock's range");
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
        }
    }

    /// The state of the process: `R`, `S`, `D`, `T`, `Z`, and so on. `None` if it is gone.
    pub fn state(&self) -> Option<char> {
        self.field("State")?.chars().next()
    }

    /// A field of `/proc/<pid>/status`.
    pub fn field(&self, name: &str) -> Option<String> {
        let status = fs::read_to_string(self.proc("status")).ok()?;
        let mut fields = status.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
    }

    /// The PID of the parent.
    pub fn parent(&self) -> Option<u32> {
        self.field("PPid")?.parse().ok()
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(self.proc("task")).map_or(0, Iterator::count)
    }

    /// The arguments, with the program's name first.
    pub fn arguments(&self) -> Vec<String> {
        self.strings("cmdline")
    }

    /// The environment with which the process was executed, as `NAME=value`.
    pub fn environment(&self) -> Vec<String> {
        self.strings("environ")
    }

    /// The open descriptors and the files they refer to, as the links in `/proc/<pid>/fd` show them.
    pub fn descriptors(&self) -> Vec<(u32, PathBuf)> {
        let entries = fs::read_dir(self.proc("fd")).into_iter().flatten().flatten();
        let mut descriptors: Vec<_> = entries
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, fs::read_link(entry.path()).ok()?))
            })
            .collect();
        descriptors.sort();
        descriptors
    }

    /// The number of descriptors while no client is connected, for a comparison with later counts. The
    /// supervisor closes a client a moment after it has answered, so this is the minimum over 30 ms.
    pub fn descriptors_at_rest(&self) -> usize {
        let counts = (0..30).map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            self.descriptors().len()
        });
        counts.min().unwrap_or_default()
    }

    /// The children of all threads of the process.
    pub fn children(&self) -> Vec<Process> {
        let tasks = fs::read_dir(self.proc("task")).into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<u32> = texts
            .flat_map(|text| text.split(' ').flat_map(str::parse).collect::<Vec<_>>())
            .collect();
        pids.into_iter().filter_map(Process::open).collect()
    }

    /// The memory that is private to the process, in bytes (`Private_Dirty`).
    pub fn private_memory(&self) -> Option<u64> {
        self.memory("Private_Dirty")
    }

    /// A sum over all mappings, in bytes: `Rss`, `Pss`, and so on (proc_pid_smaps(5)).
    pub fn memory(&self, field: &str) -> Option<u64> {
        let rollup = fs::read_to_string(self.proc("smaps_rollup")).ok()?;
        let mut fields = rollup.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| *name == field)?;
        Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// The processor time of all threads of the process, including those that have ended.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(self.proc("stat")).ok()?;
        // The name may contain any character; the columns begin after its bracket (proc_pid_stat(5)).
        let columns: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = columns.get(11)?.parse::<u64>().ok()? + columns.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// The process and all its descendants.
    pub fn family(self) -> Vec<Process> {
        let mut family = vec![self];
        let mut next = 0;
        while let Some(process) = family.get(next) {
            let children = process.children();
            family.extend(children);
            next += 1;
        }
        family
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.pid).into()
    }

    fn strings(&self, file: &str) -> Vec<String> {
        let bytes = fs::read(self.proc(file)).unwrap_or_default();
        let strings = bytes.split(|byte| *byte == 0).filter(|string| !string.is_empty());
        strings.map(|string| String::from_utf8_lossy(string).into_owned()).collect()
    }
}
