//! Where a value came from, in the words of messages and of `check`.

use std::path::Path;

use figment::{Metadata, Profile};

/// The layers, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Default,
    Attribute,
    File,
    Program,
    Environment,
    CommandLine,
}

/// The source of a value that the program set.
pub(super) const PROGRAM: &str = "the program";

impl Rank {
    const ALL: [Rank; 6] = [
        Rank::Default,
        Rank::Attribute,
        Rank::File,
        Rank::Program,
        Rank::Environment,
        Rank::CommandLine,
    ];

    /// The name of the layer's figment provider.
    pub(super) fn name(self) -> &'static str {
        match self {
            Rank::Default => "default",
            Rank::Attribute => "attribute",
            Rank::File => "file",
            Rank::Program => PROGRAM,
            Rank::Environment => "environment",
            Rank::CommandLine => "command line",
        }
    }
}

/// Where one value came from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) rank: Rank,
    /// The attribute's location or the file's path.
    pub(super) place: String,
    /// How the layer spells the key: the full variable name, `--set key`, or the key in the file.
    pub(super) spelled: String,
}

impl Origin {
    /// The origin that figment recorded with the value at `path`.
    pub(super) fn new(metadata: Option<&Metadata>, path: &[&str]) -> Origin {
        let rank = metadata.and_then(|m| Rank::ALL.into_iter().find(|r| r.name() == m.name));
        let source = metadata.and_then(|m| m.source.as_ref());
        let place = match source.and_then(|s| s.file_path()) {
            Some(path) => path.display().to_string(),
            None => source.and_then(|s| s.custom()).unwrap_or_default().to_owned(),
        };
        let spelled = metadata.map(|m| m.interpolate(&Profile::Default, path)).unwrap_or_default();
        Origin { rank: rank.unwrap_or(Rank::Default), place, spelled }
    }

    /// As `check` names it, and as it is recorded.
    pub(super) fn source(&self) -> String {
        match self.rank {
            Rank::Default => "default".into(),
            Rank::Attribute => format!("attribute at {}", self.place),
            Rank::File => format!("{}: {}", self.place, self.spelled),
            Rank::Program => PROGRAM.to_owned(),
            Rank::Environment | Rank::CommandLine => self.spelled.clone(),
        }
    }

    /// The subject of a message about `key`.
    pub(super) fn of(&self, key: &str) -> String {
        match self.rank {
            Rank::Default => format!("`{key}` by default"),
            Rank::Attribute => format!("`{key}` in the attribute at {}", self.place),
            Rank::File => format!("`{}` in {}", self.spelled, self.place),
            Rank::Program => format!("`{key}` from {PROGRAM}"),
            Rank::Environment | Rank::CommandLine => format!("`{key}` from {}", self.spelled),
        }
    }

    /// Whether the layer has but text, which the key's type parses.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.rank, Rank::Default | Rank::Program | Rank::Environment | Rank::CommandLine)
    }

    /// What a relative path is relative to.
    pub(super) fn base<'a>(&'a self, start_dir: &'a Path) -> &'a Path {
        match self.rank {
            Rank::File => Path::new(&self.place).parent().unwrap_or(start_dir),
            _ => start_dir,
        }
    }

    /// How to take the value away, for messages.
    pub(super) fn removal(&self) -> &'static str {
        match self.rank {
            Rank::Environment => "unset it",
            Rank::CommandLine => "leave it out",
            _ => "remove it",
        }
    }
}
