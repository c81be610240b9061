//! `memfd_create(2)`, `mmap(2)`: anonymous files, and memory shared between a supervisor and a worker.

use std::ffi::c_void;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// An anonymous file of `length` zero bytes whose size is sealed.
pub(crate) fn shared_file(name: &str, length: usize) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, length as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// An anonymous file with the content `bytes`, sealed against any change.
pub(crate) fn sealed_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// An anonymous file to be written to by another process.
pub(crate) fn empty_file(name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?)
}

/// Reads the whole content of an anonymous file, regardless of its file offset; fails if it has more than
/// `limit` bytes.
pub(crate) fn contents(fd: impl AsFd, limit: u64) -> io::Result<Vec<u8>> {
    let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
    if size > limit {
        let why = format!("{size} bytes exceed the limit of {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::pread(&fd, &mut bytes[at..], at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

/// A value of type `T` in a shared mapping.
///
/// Another process writes to the memory: any bytes must be a valid `T`, and all accesses must be atomic,
/// which [`Shareable`] promises.
pub(crate) struct Mapping<T: Shareable> {
    at: NonNull<T>,
}

/// Marks plain `repr(C)` structs of atomic integers.
///
/// # Safety
/// Every bit pattern is a valid value, there is no padding that matters, nothing is dropped, and all
/// fields are atomics.
pub(crate) unsafe trait Shareable: Sync {}

impl<T: Shareable> Mapping<T> {
    /// Maps the start of `fd`, which must hold a whole `T` and be sealed against shrinking: the peer could
    /// otherwise truncate the file, and an access would raise SIGBUS.
    pub(crate) fn new(fd: impl AsFd) -> io::Result<Mapping<T>> {
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        let size = rustix::fs::fstat(&fd)?.st_size;
        let length = size_of::<T>();
        if !seals.contains(SealFlags::SHRINK) || usize::try_from(size).unwrap_or(0) < length {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the shared memory has the wrong size or is not sealed",
            ));
        }
        // SAFETY: a fresh shared mapping at an address the kernel chooses aliases no Rust object; its
        // length was checked against the sealed size of the file; mappings are page aligned.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        match NonNull::new(at.cast::<T>()) {
            Some(at) => Ok(Mapping { at }),
            None => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        }
    }
}

impl<T: Shareable> std::ops::Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping holds a whole `T` for as long as `self` lives, every bit pattern is a `T`,
        // and its fields are atomics, so that writes of other processes are no data races.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Shareable> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference outlives `self`. A failure would leak.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast::<c_void>(), size_of::<T>()) };
    }
}

// SAFETY: the mapping is memory that belongs to the process, not to a thread.
unsafe impl<T: Shareable> Send for Mapping<T> {}
// SAFETY: `T` is only read and written atomically.
unsafe impl<T: Shareable> Sync for Mapping<T> {}
