//! Compares a running image with the file that is on disk now, for `status`.

use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::Path;

use super::{Account, Identity, Image};

/// The file at a path, compared with an image.
#[derive(Debug)]
pub(crate) enum OnDisk {
    /// The file is the image.
    Same,
    /// Another file with the same build id.
    SameBuild,
    /// Another program.
    Other {
        build_id: Option<String>,
    },
    Missing,
    /// The file could not be the next image.
    Unusable {
        reason: String,
    },
}

impl Image {
    /// Compares with the file that the next restart would find at `path`. Costs one stat(2) if that is the
    /// image, and else as much as opening an image.
    pub(crate) fn compare(&self, path: &Path, workers: &[Account]) -> OnDisk {
        match std::fs::metadata(path) {
            // The ctime is part of the identity: a change of mode or owner does not go unnoticed.
            Ok(meta) if Identity::of(&meta) == self.identity => return OnDisk::Same,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                return OnDisk::Missing;
            }
            _ => {}
        }
        let found = match Image::open(path, workers) {
            Ok(found) => found,
            Err(error) => return OnDisk::Unusable { reason: error.to_string() },
        };
        let (theirs, ours) = (found.identity, self.identity);
        let written = theirs.mtime != ours.mtime || theirs.size != ours.size;
        if (theirs.dev, theirs.inode) == (ours.dev, ours.inode) && !written {
            // Only the ctime differs: renamed, linked, given another owner, or rewritten under the old mtime,
            // which changes the build id.
            return if found.build_id == self.build_id { OnDisk::Same } else { other(found) };
        }
        let same = found.build_id.is_some() && found.build_id == self.build_id;
        if same && theirs.size == ours.size { OnDisk::SameBuild } else { other(found) }
    }
}

fn other(found: Image) -> OnDisk {
    OnDisk::Other { build_id: found.build_id }
}
