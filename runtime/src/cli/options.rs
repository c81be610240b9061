//! The options of the verbs, and their parser.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use crate::probe::Probe;

/// The options that were given to a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) overrides: Vec<String>,
    pub(super) json: bool,
    pub(super) no_wait: bool,
    pub(super) exe: Option<PathBuf>,
    pub(super) probe: Option<Probe>,
    pub(super) follow: bool,
    pub(super) lines: Option<u32>,
    pub(super) socket: bool,
    pub(super) notify_reload: bool,
    pub(super) environment_files: Vec<String>,
    pub(super) install: bool,
    pub(super) yes: bool,
    pub(super) help: bool,
}

/// An option, for the parser and for the help.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opt {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    pub(super) about: &'static str,
}

/// Whether an option takes a value, and how it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    Nothing(fn(&mut Given)),
    Value {
        /// The name of the value in the help.
        name: &'static str,
        /// The form of the value, for error messages.
        expected: &'static str,
        /// Stores the value; returns whether it was valid.
        set: fn(&mut Given, &str) -> bool,
    },
}

/// An option without a value.
const fn switch(long: &'static str, set: fn(&mut Given), about: &'static str) -> Opt {
    Opt { long, short: None, takes: Takes::Nothing(set), about }
}

pub(super) const SET: Opt = Opt {
    long: "set",
    short: None,
    takes: Takes::Value {
        name: "KEY=VALUE",
        expected: "KEY=VALUE, such as drain_timeout=10s",
        set: |given, text| {
            given.overrides.push(text.to_owned());
            text.split_once('=').is_some_and(|(key, _)| !key.is_empty())
        },
    },
    about: "Override a configuration key, such as --set drain_timeout=10s",
};

pub(super) const JSON: Opt = switch("json", |given| given.json = true, "Print JSON");

pub(super) const NO_WAIT: Opt = switch(
    "no-wait",
    |given| given.no_wait = true,
    "Return when the new generation is confirmed, before the old one has drained",
);

pub(super) const EXE: Opt = Opt {
    long: "exe",
    short: None,
    takes: Takes::Value {
        name: "PATH",
        expected: "the path of a program",
        set: |given, text| {
            given.exe = Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
            given.exe.is_some()
        },
    },
    about: "Start this program, and keep it as the daemon's image",
};

pub(super) const PROBE: Opt = Opt {
    long: "probe",
    short: None,
    takes: Takes::Value {
        name: "PROBE",
        expected: "live, ready or startup",
        set: |given, text| {
            given.probe = Probe::ALL.into_iter().find(|probe| probe.as_str() == text);
            given.probe.is_some()
        },
    },
    about: "Run one probe: live, ready or startup. Exit code: 0 passed, 1 failed",
};

pub(super) const FOLLOW: Opt = Opt {
    short: Some('f'),
    ..switch("follow", |given| given.follow = true, "Keep printing new lines until interrupted")
};

pub(super) const LINES: Opt = Opt {
    long: "lines",
    short: Some('n'),
    takes: Takes::Value {
        name: "N",
        expected: "a whole number, such as -n 100",
        set: |given, text| {
            given.lines = text.parse().ok();
            given.lines.is_some()
        },
    },
    about: "Number of lines to print first, 10 by default",
};

pub(super) const SOCKET: Opt =
    switch("socket", |given| given.socket = true, "Add a .socket unit for each listener");

pub(super) const NOTIFY_RELOAD: Opt = switch(
    "notify-reload",
    |given| given.notify_reload = true,
    "Reload by signal (Type=notify-reload, systemd 253 or later)",
);

pub(super) const ENVIRONMENT_FILE: Opt = Opt {
    long: "environment-file",
    short: None,
    takes: Takes::Value {
        name: "PATH",
        expected: "the path of a file with variables, after `-` if it may be missing",
        set: |given, text| {
            given.environment_files.push(text.to_owned());
            !text.trim_start_matches('-').is_empty()
        },
    },
    about: "Have systemd read variables from this file (EnvironmentFile=)",
};

pub(super) const INSTALL: Opt = switch(
    "install",
    |given| given.install = true,
    "Write the unit to /etc/systemd/system and enable it",
);

pub(super) const YES: Opt =
    switch("yes", |given| given.yes = true, "Do not ask for confirmation; with --install");

/// The option that every verb has.
pub(super) const HELP: Opt =
    Opt { short: Some('h'), ..switch("help", |given| given.help = true, "Show this help") };

/// What is wrong with the words after a verb. `at` is the index of a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The verb has no option of this name.
    Option { at: usize, name: String },
    /// The word is not an option.
    Argument { at: usize },
    /// The option, the first name, has no value, which the help calls by the second name.
    Missing(&'static str, &'static str),
    /// The option has a value and takes none.
    Idle(&'static str),
    /// The option was given twice.
    Twice(&'static str),
    /// The value of the option is not of the expected form.
    Value { option: &'static str, value: OsString, expected: &'static str },
    /// The first option was given without the second, which it needs.
    Alone(&'static str, &'static str),
}

/// Parses the words by a table of options. Words after `--help` are ignored.
pub(super) fn read(options: &[Opt], words: &[OsString]) -> Result<Given, Wrong> {
    let mut given = Given::default();
    let mut seen: Vec<&str> = Vec::new();
    let mut parser = lexopt::Parser::from_args(words);
    let mut at = 0;
    while !given.help {
        // Returns `None` within a word of several options, such as `-fn10`: the index stays the word's.
        if let Some(rest) = parser.try_raw_args() {
            at = words.len() - rest.as_slice().len();
        }
        let named = |name: &str| options.iter().chain([&HELP]).find(|option| option.long == name);
        let option = match parser.next() {
            Ok(None) => break,
            Ok(Some(Arg::Long(name))) => {
                named(name).ok_or_else(|| Wrong::Option { at, name: name.to_owned() })?
            }
            Ok(Some(Arg::Short(letter))) => {
                let of_letter = |option: &&Opt| option.short == Some(letter);
                let found = options.iter().chain([&HELP]).find(of_letter);
                found.ok_or_else(|| Wrong::Option { at, name: letter.into() })?
            }
            Ok(Some(Arg::Value(_))) => return Err(Wrong::Argument { at }),
            // The only error here: the option before, which takes no value, has one.
            Err(_) => return Err(Wrong::Idle(seen.last().copied().unwrap_or_default())),
        };
        if seen.contains(&option.long) && ![SET.long, ENVIRONMENT_FILE.long].contains(&option.long)
        {
            return Err(Wrong::Twice(option.long));
        }
        seen.push(option.long);
        match option.takes {
            Takes::Nothing(set) => set(&mut given),
            Takes::Value { name, expected, set } => {
                let value = parser.value().map_err(|_| Wrong::Missing(option.long, name))?;
                if !value.to_str().is_some_and(|value| set(&mut given, value)) {
                    return Err(Wrong::Value { option: option.long, value, expected });
                }
            }
        }
    }
    if given.yes && !given.install && !given.help {
        return Err(Wrong::Alone(YES.long, INSTALL.long));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Opt; 6] = [SET, JSON, FOLLOW, LINES, INSTALL, YES];

    fn read(words: &[&str]) -> Result<Given, Wrong> {
        super::read(&ALL, &words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_read_in_all_forms() {
        let ten = Given { lines: Some(10), ..Given::default() };
        for words in [&["--lines", "10"][..], &["--lines=10"], &["-n", "10"], &["-n10"], &["-n=10"]]
        {
            assert_eq!(read(words), Ok(ten.clone()), "{words:?}");
        }
        let follows = Given { follow: true, ..ten };
        assert_eq!(read(&["-fn10"]), Ok(follows.clone()));
        assert_eq!(read(&["-n10", "--follow"]), Ok(follows));
        assert_eq!(read(&[]), Ok(Given::default()));
    }

    #[test]
    fn overrides_accumulate_and_may_contain_anything() {
        let given = read(&["--set", "a=b=c", "--set=d=", "--set", "e=--json"]).unwrap();
        assert_eq!(given.overrides, ["a=b=c", "d=", "e=--json"]);
        assert!(!given.json);
    }

    #[test]
    fn words_after_help_are_ignored() {
        assert!(read(&["--help", "--frob"]).unwrap().help);
        assert!(read(&["-h"]).unwrap().help && read(&["--yes", "-h"]).unwrap().help);
    }

    #[test]
    fn mistakes_are_recognized() {
        let wrong = |words: &[&str]| read(words).unwrap_err();
        let option = |at, name: &str| Wrong::Option { at, name: name.into() };
        assert_eq!(wrong(&["--frob"]), option(0, "frob"));
        assert_eq!(wrong(&["--json", "--frob=1"]), option(1, "frob"));
        assert_eq!(wrong(&["-n", "1", "-fx"]), option(2, "x"));
        assert_eq!(wrong(&["--set", "a=b", "x"]), Wrong::Argument { at: 2 });
        assert_eq!(wrong(&["-"]), Wrong::Argument { at: 0 });
        assert_eq!(wrong(&[""]), Wrong::Argument { at: 0 });
        assert_eq!(wrong(&["--json=1"]), Wrong::Idle("json"));
        assert_eq!(wrong(&["--json=1", "--frob"]), Wrong::Idle("json"));
        assert_eq!(wrong(&["--lines"]), Wrong::Missing("lines", "N"));
        assert_eq!(wrong(&["-n1", "--lines=2"]), Wrong::Twice("lines"));
        assert_eq!(wrong(&["--yes"]), Wrong::Alone("yes", "install"));
        for (option, value) in [("lines", "-1"), ("lines", "x"), ("set", "--json"), ("set", "=a")] {
            let found = wrong(&[&format!("--{option}"), value]);
            let same = |wrong: &Wrong| matches!(wrong, Wrong::Value { option: of, value: it, .. } if *of == option && it == value);
            assert!(same(&found), "{found:?}");
        }
    }

    #[test]
    fn non_utf8_value_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(b"a=\xff".to_vec());
        let wrong = super::read(&ALL, &["--set".into(), value.clone()]).unwrap_err();
        assert!(matches!(wrong, Wrong::Value { option: "set", value: it, .. } if it == value));
    }
}
