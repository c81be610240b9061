//! Searches for a daemon that does not run where a verb looked, for the error message: it may have been
//! started with another environment, by another user, or under another name.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::control::path_of;
use crate::pidfile;

/// The directories in which runtime directories are by default.
pub(super) struct SearchPlaces {
    run: PathBuf,
    tmp: PathBuf,
    /// `XDG_RUNTIME_DIR`.
    user: Option<PathBuf>,
    uid: u32,
}

/// A daemon that runs in another place.
#[derive(Debug, PartialEq)]
pub(super) enum Elsewhere {
    Running {
        pid: i32,
        uid: u32,
        pidfile: PathBuf,
        /// The options by which a verb finds it.
        options: String,
    },
    /// A runtime directory with the daemon's name, of user `uid`, which this user cannot read.
    Hidden { uid: u32, dir: PathBuf },
}

impl SearchPlaces {
    pub(super) fn of_host() -> SearchPlaces {
        SearchPlaces {
            run: "/run".into(),
            tmp: "/tmp".into(),
            user: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Finds a daemon that may be meant: one with the same name, or else one that runs this program.
    pub(super) fn find(&self, settings: &Settings) -> Option<Elsewhere> {
        let name = &settings.name;
        let dirs = self.of_name(name);
        let named = dirs.iter().map(|dir| dir.join(format!("{name}.pid")));
        let running = |pidfile: &PathBuf| *pidfile != settings.pidfile;
        let mut found = named.filter(running).filter_map(held);
        if let Some(found) = found.next() {
            return Some(found);
        }
        let hidden = dirs.iter().find_map(|dir| self.hidden(dir));
        hidden.or_else(|| self.of_this_program(settings))
    }

    /// The runtime directories that daemons of this name have by default.
    fn of_name(&self, name: &str) -> Vec<PathBuf> {
        let users = self.run.join("user");
        let mut dirs = vec![self.run.join(name)];
        dirs.extend(self.user.iter().map(|dir| dir.join(name)));
        dirs.push(users.join(self.uid.to_string()).join(name));
        dirs.push(self.tmp.join(format!("{name}-{}", self.uid)));
        if self.uid == 0 {
            dirs.extend(entries(&users).map(|user| user.join(name)));
            let prefix = format!("{name}-");
            dirs.extend(entries(&self.tmp).filter(|dir| {
                let name = dir.file_name().and_then(|name| name.to_str());
                let uid = name.and_then(|name| name.strip_prefix(&prefix));
                uid.is_some_and(|uid| uid.parse::<u32>().is_ok())
            }));
        }
        dirs
    }

    /// Finds a daemon under another name that runs the same executable file as this process.
    fn of_this_program(&self, settings: &Settings) -> Option<Elsewhere> {
        let own = file(Path::new("/proc/self/exe"))?;
        let bases = [Some(&self.run), self.user.as_ref()].into_iter().flatten();
        let pidfiles = bases.flat_map(|base| entries(base)).flat_map(|dir| {
            entries(&dir)
                .filter(|path| path.extension().is_some_and(|it| it == "pid"))
                .collect::<Vec<_>>()
        });
        let ours = pidfiles.filter(|pidfile| *pidfile != settings.pidfile);
        ours.filter_map(held).find(|found| match found {
            Elsewhere::Running { pid, .. } => {
                file(&PathBuf::from(format!("/proc/{pid}/exe"))) == Some(own)
            }
            Elsewhere::Hidden { .. } => false,
        })
    }

    /// Returns the directory if it exists, belongs to another user, and cannot be read.
    fn hidden(&self, dir: &Path) -> Option<Elsewhere> {
        let meta = fs::metadata(dir).ok()?;
        let closed = self.uid != 0 && meta.uid() != self.uid && fs::read_dir(dir).is_err();
        closed.then(|| Elsewhere::Hidden { uid: meta.uid(), dir: dir.to_owned() })
    }
}

/// Returns the daemon that holds a pidfile, if the control socket is in the same directory.
fn held(pidfile: PathBuf) -> Option<Elsewhere> {
    let dir = pidfile.parent()?;
    if !path_of(dir, &pidfile).exists() {
        return None;
    }
    let holder = pidfile::holder(&pidfile).ok()??;
    let uid = fs::metadata(&pidfile).ok()?.uid();
    // Both options, because the configuration of the verb may set either.
    let options =
        format!("--set runtime_dir={} --set pidfile={}", dir.display(), pidfile.display());
    Some(Elsewhere::Running { pid: holder.pid?, uid, options, pidfile })
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Device and inode of the file at a path.
fn file(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = rustix::process::geteuid().as_raw();
        match self {
            Elsewhere::Running { pid, uid, pidfile, options } => {
                let pidfile = pidfile.display();
                write!(
                    f,
                    "process {pid} of user {uid} holds {pidfile}: to reach it, add `{options}`"
                )?;
                match uid {
                    _ if *uid == own || own == 0 => Ok(()),
                    0 => write!(f, ", as root (`sudo`)"),
                    uid => write!(f, ", as user {uid} or root (`sudo`)"),
                }
            }
            Elsewhere::Hidden { uid: 0, dir } => {
                write!(f, "it may be running as root in {}: use `sudo`", dir.display())
            }
            Elsewhere::Hidden { uid, dir } => {
                write!(
                    f,
                    "it may be running as user {uid} in {}: use `sudo -u '#{uid}'`",
                    dir.display()
                )
            }
        }
    }
}
