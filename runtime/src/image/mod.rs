//! Images: executables held by an open descriptor, and checked before they run.
//!
//! An [`Image`] is opened from the path on disk, or from `/proc/self/exe` for the program that runs. It is
//! executed by its descriptor, whatever happens to the path; [`Image::verify`] checks before each exec that
//! the file was not written to. [`build_id`] identifies its build, [`trust`] who could change the file, and
//! [`disk`] compares it with what is on disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::json::{FromJson, ToJson};
use nix::libc;
use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Error, ErrorKind, Result};
use crate::inherited_fd::{FdTable, InheritedFd};
use crate::sys::privileges::Account;

pub(crate) mod build_id;
mod disk;
mod trust;

pub(crate) use disk::OnDisk;

/// An open executable.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    file: File,
    identity: Identity,
    build_id: Option<String>,
}

/// The metadata by which a change of the file's content is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToJson, FromJson)]
struct Identity {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Image {
    /// Opens the program at `path`. Refuses a file that could not run as a worker, and, as root, one that the
    /// users of `workers` could change.
    pub(crate) fn open(path: &Path, workers: &[Account]) -> Result<Image> {
        let file = std::fs::OpenOptions::new()
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
            return Err(not_executable(path, &file));
        }
        if rustix::process::geteuid().is_root() {
            trust::check(path, &meta, workers)?;
        }
        let image = Image::held(path, file)?;
        let mut header = Vec::with_capacity(20);
        (&image.file)
            .take(20)
            .read_to_end(&mut header)
            .map_err(|error| cannot("read", path, error))?;
        check_header(path, &header)?;
        Ok(image)
    }

    /// Repeats the check for files that `workers` could change, for users that were not known at
    /// [`Image::open`].
    pub(crate) fn check_trust(&self, workers: &[Account]) -> Result<()> {
        let meta = self.file.metadata().map_err(|error| cannot("examine", &self.path, error))?;
        match rustix::process::geteuid().is_root() {
            true => trust::check(&self.path, &meta, workers),
            false => Ok(()),
        }
    }

    /// The program that this process runs, even if its file was moved or removed. `path` is where it was
    /// started from.
    pub(crate) fn own(path: &Path) -> Result<Image> {
        let file = File::open("/proc/self/exe").map_err(|error| cannot("open", path, error))?;
        Image::held(path, file)
    }

    /// Records the identity and the build id of an open file.
    fn held(path: &Path, file: File) -> Result<Image> {
        // Before anything else is read: a write from here on is noticed.
        let identity = identity(&file).map_err(|error| cannot("examine", path, error))?;
        let build_id = build_id::read(&file).map_err(|error| cannot("read", path, error))?;
        Ok(Image { path: path.to_owned(), file, identity, build_id })
    }

    /// Fails if the file was written to since it was opened.
    ///
    /// A changed ctime alone proves nothing: link(2), rename(2) and unlink(2) change it, by which a
    /// deployment replaces this file and a reverted deployment puts it back. But the content may have changed
    /// as well, under an mtime that was set back (`rsync --inplace --times`) or that all builds share. If
    /// only the ctime differs, the build id is therefore read again and compared.
    pub(crate) fn verify(&self) -> Result<()> {
        let now = identity(&self.file).map_err(|error| cannot("examine", &self.path, error))?;
        if now == self.identity {
            return Ok(());
        }
        let same = Identity { ctime: self.identity.ctime, ..now } == self.identity;
        if same {
            let read = build_id::read(&self.file);
            if read.map_err(|error| cannot("read", &self.path, error))? == self.build_id {
                return Ok(());
            }
        }
        Err(refused(
            &self.path,
            "was written to while in use; deploy by renaming a new file over it",
        ))
    }

    /// The build id that the linker wrote into the program, in hexadecimal.
    pub(crate) fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.identity.size
    }

    /// The time of its last modification, in seconds since 1970.
    pub(crate) fn modified(&self) -> u64 {
        u64::try_from(self.identity.mtime.0).unwrap_or(0)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An image in the state for the next image of the supervisor.
#[derive(Debug, ToJson, FromJson)]
pub(crate) struct ImageState {
    path: PathBuf,
    file: InheritedFd,
    identity: Identity,
    #[json(default)]
    build_id: Option<String>,
}

impl Image {
    /// Returns whether both are the same file.
    pub(crate) fn is(&self, other: &Image) -> bool {
        let file = |image: &Image| (image.identity.dev, image.identity.inode);
        file(self) == file(other)
    }

    pub(crate) fn pack(&self, packing: &mut FdTable) -> ImageState {
        let file = packing.add(&self.file);
        let (path, build_id) = (self.path.clone(), self.build_id.clone());
        ImageState { path, file, identity: self.identity, build_id }
    }

    pub(crate) fn unpack(packed: ImageState) -> Result<Image> {
        let file = File::from(packed.file.duplicate("an image")?);
        let ImageState { path, identity, build_id, .. } = packed;
        Ok(Image { path, file, identity, build_id })
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn identity(file: &File) -> io::Result<Identity> {
    file.metadata().map(|meta| Identity::of(&meta))
}

impl Identity {
    fn of(meta: &std::fs::Metadata) -> Identity {
        Identity {
            dev: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Refuses scripts, whose interpreter could not open a close-on-exec descriptor by its path, and programs for
/// another architecture (elf(5)).
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

/// The build id of a program in memory, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn build_id_of(program: &[u8]) -> Option<String> {
    build_id::read(program).ok().flatten()
}

fn not_executable(path: &Path, file: &File) -> Error {
    let mount = rustix::fs::fstatvfs(file).map(|mount| mount.f_flag);
    if mount.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC)) {
        return refused(path, "is on a file system that is mounted noexec; move it to another one");
    }
    refused(path, "is not executable; `chmod +x` it")
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
    fn files_that_cannot_run_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path| Image::open(path, &[]).unwrap_err().to_string();
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
    fn writing_is_noticed_and_renaming_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::fs::read("/proc/self/exe").unwrap();
        let path = file(dir.path(), "a", &exe, 0o755);
        let image = Image::open(&path, &[]).unwrap();
        image.verify().unwrap();
        std::fs::rename(&path, dir.path().join("b")).unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        image.verify().unwrap();
        let path = file(dir.path(), "c", &exe, 0o755);
        let image = Image::open(&path, &[]).unwrap();
        std::fs::write(&path, &exe[..100]).unwrap();
        assert!(image.verify().unwrap_err().to_string().contains("written to"));
    }

    /// An ELF file for this machine with nothing but a build id.
    fn build(dir: &Path, name: &str, id: u8) -> PathBuf {
        let mut bytes = build_id::example(true, false, 4, &[id; 20]);
        let mut own = [0; 20];
        File::open("/proc/self/exe").unwrap().read_exact(&mut own).unwrap();
        bytes[18..20].copy_from_slice(&own[18..20]);
        file(dir, name, &bytes, 0o755)
    }

    #[test]
    fn other_build_with_old_mtime_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = build(dir.path(), "a", 1);
        let image = Image::open(&path, &[]).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let put_back = || {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
        };
        build(dir.path(), "a", 1);
        put_back();
        image.verify().unwrap();
        build(dir.path(), "a", 2);
        put_back();
        assert!(image.verify().unwrap_err().to_string().contains("written to"));
        assert!(matches!(image.compare(&path, &[]), OnDisk::Other { .. }));
    }

    #[test]
    fn file_on_disk_is_compared_with_image() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let link = |target: &str| {
            std::os::unix::fs::symlink(target, at("next")).unwrap();
            std::fs::rename(at("next"), at("current")).unwrap();
        };
        build(dir.path(), "1", 1);
        build(dir.path(), "1 again", 1);
        build(dir.path(), "2", 2);
        link("1");
        let image = Image::open(&at("current"), &[]).unwrap();
        assert_eq!(image.build_id(), Some("01".repeat(20).as_str()));
        let now = || image.compare(&at("current"), &[]);
        assert!(matches!(now(), OnDisk::Same));
        link("1 again");
        assert!(matches!(now(), OnDisk::SameBuild));
        link("2");
        let theirs = "02".repeat(20);
        assert!(matches!(now(), OnDisk::Other { build_id: Some(id) } if id == theirs));
        std::fs::remove_file(at("2")).unwrap();
        assert!(matches!(now(), OnDisk::Missing));
        link("1/program");
        assert!(matches!(now(), OnDisk::Missing));
        // Moved away and back, as by a deployment that is reverted.
        std::fs::rename(at("1"), at("old")).unwrap();
        std::fs::rename(at("old"), at("1")).unwrap();
        link("1");
        assert!(matches!(now(), OnDisk::Same));
        std::fs::set_permissions(at("1"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(now(), OnDisk::Unusable { reason } if reason.contains("not executable")));
    }
}
