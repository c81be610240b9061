//! Reads the build id: a note in an ELF file by which linkers identify a build of a program (elf(5)).

use std::fmt::Write;
use std::io;

// The bounds of what is read of a file, whose content is arbitrary. Linked programs stay far below them.

/// Number of program headers.
const MAX_SEGMENTS: u16 = 64;
/// Bytes of notes in one segment.
const MAX_NOTES: u64 = 16 * 1024;
/// Bytes of a build id; linkers write 8 to 20.
const MAX_ID: usize = 64;

const PT_NOTE: u64 = 4;
const NT_GNU_BUILD_ID: u64 = 3;

/// A file, or bytes in memory, to read from at an offset.
pub(super) trait ReadAt {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let length = buffer.len().min(self.len() - from);
        buffer[..length].copy_from_slice(&self[from..from + length]);
        Ok(length)
    }
}

/// Returns the build id in hexadecimal; `None` if the program has none.
pub(super) fn read(program: &(impl ReadAt + ?Sized)) -> io::Result<Option<String>> {
    let header = part(program, 0, 64)?;
    let Some((format, segments)) = Format::of(&header) else { return Ok(None) };
    let table = part(program, segments.offset, u64::from(segments.count) * segments.size)?;
    let Ok(size) = usize::try_from(segments.size) else { return Ok(None) };
    for segment in table.chunks_exact(size.max(1)) {
        let Some((offset, length, align)) = format.notes(segment) else { continue };
        let notes = part(program, offset, length.min(MAX_NOTES))?;
        if let Some(id) = format.find(&notes, align) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Reads a part of the file, as much of it as exists.
fn part(program: &(impl ReadAt + ?Sized), offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    // pread(2) fails for offsets beyond the range of `off_t`: no file has any bytes there.
    while filled < bytes.len() && i64::try_from(offset.saturating_add(length)).is_ok() {
        match program.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The encoding of numbers in an ELF file.
#[derive(Debug, Clone, Copy)]
struct Format {
    /// Whether addresses have 64 bits.
    wide: bool,
    big_endian: bool,
}

/// The program header table.
struct Segments {
    offset: u64,
    size: u64,
    count: u16,
}

impl Format {
    fn of(header: &[u8]) -> Option<(Format, Segments)> {
        let wide = match header.get(..6)? {
            [0x7f, b'E', b'L', b'F', 1, 1 | 2] => false,
            [0x7f, b'E', b'L', b'F', 2, 1 | 2] => true,
            _ => return None,
        };
        let format = Format { wide, big_endian: header[5] == 2 };
        let (offset, size, count) = if wide { (32, 54, 56) } else { (28, 42, 44) };
        let segments = Segments {
            offset: format.address(header, offset)?,
            size: format.number(header, size, 2)?,
            count: u16::try_from(format.number(header, count, 2)?).ok()?.min(MAX_SEGMENTS),
        };
        (segments.size >= if wide { 56 } else { 32 }).then_some((format, segments))
    }

    /// Offset, length and alignment of the notes, if the segment has notes.
    fn notes(self, segment: &[u8]) -> Option<(u64, u64, usize)> {
        if self.number(segment, 0, 4)? != PT_NOTE {
            return None;
        }
        let (offset, length, align) = if self.wide { (8, 32, 48) } else { (4, 16, 28) };
        let align = if self.address(segment, align)? == 8 { 8 } else { 4 };
        Some((self.address(segment, offset)?, self.address(segment, length)?, align))
    }

    /// The build id among these notes.
    fn find(self, mut notes: &[u8], align: usize) -> Option<String> {
        loop {
            let length = |at| usize::try_from(self.number(notes, at, 4)?).ok();
            let (name, id, kind) = (length(0)?, length(4)?, self.number(notes, 8, 4)?);
            let from = name.checked_add(12)?.checked_next_multiple_of(align)?;
            let to = from.checked_add(id)?;
            if kind == NT_GNU_BUILD_ID && notes.get(12..)?.get(..name)? == b"GNU\0" {
                let id = notes.get(from..to)?;
                return (1..=MAX_ID).contains(&id.len()).then(|| hexadecimal(id));
            }
            notes = notes.get(to.checked_next_multiple_of(align)?..)?;
        }
    }

    fn address(self, bytes: &[u8], at: usize) -> Option<u64> {
        self.number(bytes, at, if self.wide { 8 } else { 4 })
    }

    fn number(self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..)?.get(..length)?;
        let join = |number, byte: &u8| number << 8 | u64::from(*byte);
        Some(match self.big_endian {
            true => bytes.iter().fold(0, join),
            false => bytes.iter().rev().fold(0, join),
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An ELF file with nothing but notes, for tests: an ABI tag, as linkers write it, another note, and the
/// build id.
#[cfg(test)]
pub(crate) fn example(wide: bool, big_endian: bool, align: u64, id: &[u8]) -> Vec<u8> {
    let number = |value: u64, length: usize| -> Vec<u8> {
        let bytes = value.to_be_bytes()[8 - length..].to_vec();
        if big_endian { bytes } else { bytes.into_iter().rev().collect() }
    };
    let word = if wide { 8 } else { 4 };
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(usize::try_from(align).unwrap()), 0);
        bytes
    };
    let note = |kind: u64, name: &[u8], text: &[u8]| {
        let head = [number(name.len() as u64, 4), number(text.len() as u64, 4), number(kind, 4)];
        padded([padded([&head.concat(), name].concat()), text.to_vec()].concat())
    };
    let notes = [note(1, b"GNU\0", &[0; 16]), note(9, b"Other\0", b"xyz"), note(3, b"GNU\0", id)];
    let notes = notes.concat();
    let (header, segment) = if wide { (64, 56) } else { (52, 32) };
    let start = header + 2 * segment;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1 + u8::from(big_endian)];
    bytes.resize(usize::try_from(start).unwrap(), 0);
    let mut put = |at: u64, value: Vec<u8>| {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + value.len()].copy_from_slice(&value);
    };
    let (table, size, count) = if wide { (32, 54, 56) } else { (28, 42, 44) };
    put(table, number(header, word));
    put(size, number(segment, 2));
    put(count, number(2, 2));
    let (offset, length, alignment) = if wide { (8, 32, 48) } else { (4, 16, 28) };
    // The first segment is of another kind.
    put(header, number(1, 4));
    put(header + segment, number(PT_NOTE, 4));
    put(header + segment + offset, number(start, word));
    put(header + segment + length, number(notes.len() as u64, word));
    put(header + segment + alignment, number(align, word));
    bytes.extend(notes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_id_is_found_in_any_format() {
        for (wide, big_endian, align) in
            [(true, false, 4), (true, true, 8), (false, false, 4), (false, true, 4)]
        {
            for length in [8, 16, 20] {
                let id: Vec<u8> = (0..length).map(|byte| byte * 7).collect();
                let program = example(wide, big_endian, align, &id);
                assert_eq!(read(&program[..]).unwrap(), Some(hexadecimal(&id)));
                // A truncated file has the id or none, and never a wrong one.
                for end in 0..program.len() {
                    let found = read(&program[..end]).unwrap();
                    assert!(found.is_none_or(|found| found == hexadecimal(&id)));
                }
            }
        }
        assert_eq!(read(&example(true, false, 4, &[])[..]).unwrap(), None);
        assert_eq!(read(&example(true, false, 4, &[1; 65])[..]).unwrap(), None);
        assert_eq!(read(&b"#!/bin/sh\n"[..]).unwrap(), None);
    }

    /// Compares with `readelf`, where it is installed.
    #[test]
    fn own_build_id_is_as_readelf_finds_it() {
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        let id = read(&own).unwrap();
        let path = std::env::current_exe().unwrap();
        let reader = std::process::Command::new("readelf").arg("-nW").arg(path).output();
        if let Ok(output) = reader {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let theirs = text.lines().find_map(|line| line.split_once("Build ID: "));
            assert_eq!(id.as_deref(), theirs.map(|(_, id)| id.trim()));
        }
    }
}
