//! Images: an executable held by an open descriptor, and what can be known of it before it runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{Access, AtFlags, CWD};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::handed::{Handed, Packing};

/// An open executable.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    file: File,
    identity: Identity,
}

/// What must stay the same for an open file to be the program it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Image {
    /// Opens the program at `path` and refuses what could not run as a worker.
    pub(crate) fn open(path: &Path) -> Result<Image> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| cannot("open", path, error))?;
        let meta = file.metadata().map_err(|error| cannot("examine", path, error))?;
        if !meta.is_file() {
            return Err(refused(path, "is not a regular file"));
        }
        let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        if rustix::fs::accessat(CWD, by_descriptor, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
            return Err(refused(
                path,
                "is not executable; `chmod +x` it, or move it from a noexec mount",
            ));
        }
        let mut header = Vec::with_capacity(20);
        file.by_ref()
            .take(20)
            .read_to_end(&mut header)
            .map_err(|error| cannot("read", path, error))?;
        check_header(path, &header)?;
        let identity = identity(&file).map_err(|error| cannot("examine", path, error))?;
        Ok(Image { path: path.to_owned(), file, identity })
    }

    /// Fails where the file was changed since it was opened.
    pub(crate) fn verify(&self) -> Result<()> {
        let now = identity(&self.file).map_err(|error| cannot("examine", &self.path, error))?;
        // A rename or an unlink changes the ctime alone, and the content not at all.
        let same = Identity { ctime: self.identity.ctime, ..now } == self.identity;
        if same {
            return Ok(());
        }
        Err(refused(
            &self.path,
            "was written to while it was in use; deploy by renaming a new file over it",
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An image on its way to the next program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Packed {
    path: PathBuf,
    file: Handed,
    identity: Identity,
}

impl Image {
    /// The program that this process runs, wherever it lies by now.
    pub(crate) fn own(path: &Path) -> Result<Image> {
        let file = File::open("/proc/self/exe").map_err(|error| cannot("open", path, error))?;
        let identity = identity(&file).map_err(|error| cannot("examine", path, error))?;
        Ok(Image { path: path.to_owned(), file, identity })
    }

    /// Whether both are the same file.
    pub(crate) fn is(&self, other: &Image) -> bool {
        let file = |image: &Image| (image.identity.dev, image.identity.inode);
        file(self) == file(other)
    }

    pub(crate) fn pack(&self, packing: &mut Packing) -> Packed {
        let file = packing.hand(&self.file);
        Packed { path: self.path.clone(), file, identity: self.identity }
    }

    pub(crate) fn unpack(packed: Packed) -> Result<Image> {
        let file = File::from(packed.file.duplicate("an image")?);
        Ok(Image { path: packed.path, file, identity: packed.identity })
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn identity(file: &File) -> io::Result<Identity> {
    let meta = file.metadata()?;
    Ok(Identity {
        dev: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// Refuses scripts (the kernel would give the interpreter a path that is no longer there) and programs
/// for another machine (elf(5)).
fn check_header(path: &Path, header: &[u8]) -> Result<()> {
    if header.starts_with(b"#!") {
        return Err(refused(path, "is a script; the image must be the program itself"));
    }
    let Some(machine) = elf_machine(header) else {
        return Err(refused(path, "is not an ELF executable"));
    };
    let mut own = [0; 20];
    let read = File::open("/proc/self/exe").and_then(|mut file| file.read_exact(&mut own));
    if let (Ok(()), Some(here)) = (read, elf_machine(&own))
        && here != machine
    {
        return Err(refused(
            path,
            &format!("is built for another architecture (ELF machine {machine}, here {here})"),
        ));
    }
    Ok(())
}

fn elf_machine(header: &[u8]) -> Option<u16> {
    let magic = header.get(..4)?;
    let bytes = [*header.get(18)?, *header.get(19)?];
    match (magic, header.get(5)?) {
        (b"\x7fELF", 1) => Some(u16::from_le_bytes(bytes)),
        (b"\x7fELF", 2) => Some(u16::from_be_bytes(bytes)),
        _ => None,
    }
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::os(ErrorKind::Image, format!("cannot {what} the image {}", path.display()), error)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Image, format!("the image {} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn refuses_what_cannot_run() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path| Image::open(path).unwrap_err().to_string();
        assert!(says(&dir.path().join("none")).contains("No such file"));
        assert!(says(dir.path()).contains("not a regular file"));
        assert!(says(&file(dir.path(), "a", b"\x7fELF", 0o644)).contains("not executable"));
        assert!(says(&file(dir.path(), "b", b"#!/bin/sh\n", 0o755)).contains("script"));
        assert!(says(&file(dir.path(), "c", b"hello", 0o755)).contains("not an ELF"));
        let mut foreign = vec![0; 64];
        std::fs::File::open("/proc/self/exe").unwrap().read_exact(&mut foreign).unwrap();
        foreign[18] ^= 0x55;
        assert!(says(&file(dir.path(), "d", &foreign, 0o755)).contains("another architecture"));
    }

    #[test]
    fn notices_writing_but_not_renaming() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::fs::read("/proc/self/exe").unwrap();
        let path = file(dir.path(), "a", &exe, 0o755);
        let image = Image::open(&path).unwrap();
        image.verify().unwrap();
        std::fs::rename(&path, dir.path().join("b")).unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        image.verify().unwrap();
        let path = file(dir.path(), "c", &exe, 0o755);
        let image = Image::open(&path).unwrap();
        std::fs::write(&path, &exe[..100]).unwrap();
        assert!(image.verify().unwrap_err().to_string().contains("written to"));
    }
}
