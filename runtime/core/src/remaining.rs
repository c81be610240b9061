//! The work that a draining worker still has to finish.

use std::fmt;

/// The connections and tasks that a draining worker still waits for, or that were forced at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    pub connections: u64,
    /// Tasks of `Daemon::spawn`.
    pub tasks: u64,
    /// Whether `main` is still running; `None` if unknown, in a worker of an earlier release.
    pub main: Option<bool>,
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connections {
            0 => f.write_str("no connections")?,
            1 => f.write_str("1 connection")?,
            many => write!(f, "{many} connections")?,
        }
        match self.tasks {
            0 => {}
            1 => f.write_str(", 1 task")?,
            many => write!(f, ", {many} tasks")?,
        }
        match self.main {
            Some(true) => f.write_str(", `main` has not returned"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_lists_remaining_work() {
        let text = |connections, tasks, main| Remaining { connections, tasks, main }.to_string();
        assert_eq!(text(0, 0, Some(true)), "no connections, `main` has not returned");
        assert_eq!(text(1, 2, Some(false)), "1 connection, 2 tasks");
        assert_eq!(text(3, 1, None), "3 connections, 1 task");
    }
}
