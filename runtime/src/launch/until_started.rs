//! What a start creates in the file system, and a failed start removes.

use std::ops::{Deref, DerefMut};

use crate::control::ControlSocket;
use crate::pidfile::PidFile;

/// A file of the daemon, removed on drop unless the daemon has started.
///
/// A daemon that has started removes its files where it exits: a process that execs itself, or a child that
/// only looks at the state, must leave them in place.
#[derive(Debug)]
pub(crate) struct UntilStarted<F: RemoveFile> {
    file: F,
    started: bool,
}

impl<F: RemoveFile> UntilStarted<F> {
    /// Guards a file that was just created.
    pub(crate) fn new(file: F) -> UntilStarted<F> {
        UntilStarted { file, started: false }
    }

    /// Holds a file of a daemon that runs.
    pub(crate) fn started(file: F) -> UntilStarted<F> {
        UntilStarted { file, started: true }
    }

    /// Leaves the file in place from now on.
    pub(crate) fn keep(&mut self) {
        self.started = true;
    }
}

impl<F: RemoveFile> Deref for UntilStarted<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.file
    }
}

impl<F: RemoveFile> DerefMut for UntilStarted<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.file
    }
}

impl<F: RemoveFile> Drop for UntilStarted<F> {
    fn drop(&mut self) {
        if !self.started {
            self.file.remove_file();
        }
    }
}

/// A file that its owner can remove.
pub(crate) trait RemoveFile {
    /// Removes the file, if the path still names it.
    fn remove_file(&self);
}

impl RemoveFile for PidFile {
    fn remove_file(&self) {
        PidFile::remove_file(self);
    }
}

impl RemoveFile for ControlSocket {
    fn remove_file(&self) {
        ControlSocket::remove_file(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_only_if_the_start_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let (pidfile, control) = (dir.path().join("hello.pid"), dir.path().join("hello.sock"));
        let begin = || {
            let lock = PidFile::acquire(&pidfile, "hello").unwrap();
            (UntilStarted::new(lock), UntilStarted::new(ControlSocket::bind(&control).unwrap()))
        };
        let failed = begin();
        assert!(pidfile.exists() && control.exists());
        drop(failed);
        assert!(!pidfile.exists() && !control.exists());
        let (mut lock, mut socket) = begin();
        lock.keep();
        socket.keep();
        drop((lock, socket));
        assert!(pidfile.exists() && control.exists());
    }
}
