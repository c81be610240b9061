//! What lies on disk while an image runs.

use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::Path;

use super::{Account, Identity, Image};

/// The file at a path, compared with an image.
#[derive(Debug)]
pub(crate) enum OnDisk {
    /// It is the image.
    Same,
    /// Another file, of the same build.
    SameBuild,
    /// Another program.
    Other {
        build_id: Option<String>,
    },
    Missing,
    /// Nothing that could be the next image: why.
    Unusable {
        reason: String,
    },
}

impl Image {
    /// What the path leads to now, as the next restart would find it. For the file that is running this
    /// is one stat(2), and the little that is read at a restart else.
    pub(crate) fn compare(&self, path: &Path, workers: &[Account]) -> OnDisk {
        match std::fs::metadata(path) {
            // Where the mode was changed, the ctime was too.
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
            // Renamed, linked, or given another owner: the file is the same if its content is.
            return if found.build_id == self.build_id { OnDisk::Same } else { other(found) };
        }
        let same = found.build_id.is_some() && found.build_id == self.build_id;
        if same && theirs.size == ours.size { OnDisk::SameBuild } else { other(found) }
    }
}

fn other(found: Image) -> OnDisk {
    OnDisk::Other { build_id: found.build_id }
}
