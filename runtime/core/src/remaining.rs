//! What keeps a worker from ending.

use std::fmt;

/// What a worker that drains waits for, or what it was cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    pub connections: u64,
    /// Of `Daemon::spawn`.
    pub tasks: u64,
    /// `main` has not returned. `None` where that is not known, of a worker of an earlier release.
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
    fn in_words() {
        let said = |connections, tasks, main| Remaining { connections, tasks, main }.to_string();
        assert_eq!(said(0, 0, Some(true)), "no connections, `main` has not returned");
        assert_eq!(said(1, 2, Some(false)), "1 connection, 2 tasks");
        assert_eq!(said(3, 1, None), "3 connections, 1 task");
    }
}
