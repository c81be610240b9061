use super::*;
use crate::error::ErrorKind;
use crate::spec::Flavor;

fn parse(words: &[&str]) -> Result<Line> {
    parse_with(words, ProgramTraits::default())
}

fn parse_with(words: &[&str], program: ProgramTraits) -> Result<Line> {
    let spec = Spec {
        bin: Some("app"),
        version: Some("1.2.3"),
        location: "src/main.rs:1",
        keys: &[],
        graceful_restart: true,
        takes_daemon: true,
        flavor: Flavor::MultiThread,
        worker_threads: None,
    };
    let args = ["app"].iter().chain(words).map(OsString::from).collect();
    super::parse(&spec, args, program)
}

#[track_caller]
fn parsed(words: &[&str]) -> Parsed {
    match parse(words) {
        Ok(Line::Command(parsed)) => parsed,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[track_caller]
fn help(words: &[&str]) -> String {
    match parse(words) {
        Ok(Line::Help(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[track_caller]
fn refused(words: &[&str]) -> String {
    let error = parse(words).map(|line| panic!("{words:?}: {line:?}")).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Usage, 2));
    error.to_string()
}

#[test]
fn arguments_without_verb_are_the_programs() {
    for words in
        [&["--port", "80", "start"][..], &["serve", "--json"], &["-h", "x"], &["--", "stop"], &[]]
    {
        let it = parsed(words);
        assert!(matches!(it.command, Command::Run { detach: None }), "{words:?}");
        assert_eq!(it.args[1..], *words);
    }
}

#[test]
fn standard_options_are_answered() {
    assert!(help(&["--help"]).contains("\nVerbs:\n") && help(&["-h"]).contains("restart"));
    assert_eq!((help(&["--version"]), help(&["-V"])), ("app 1.2.3".into(), "app 1.2.3".into()));
}

#[test]
fn program_with_a_command_line_parses_all_but_verbs() {
    let own = ProgramTraits { has_command_line: true, has_commands: true, configures: true };
    let line = |words: &[&str]| match parse_with(words, own) {
        Ok(Line::Command(parsed)) => parsed,
        other => panic!("{words:?}: {other:?}"),
    };
    for (words, args) in [
        (&["--help"][..], &["--help"][..]),
        (&["-V"], &["-V"]),
        (&["stats"], &["stats"]),
        (&["reload"], &["reload"]),
        (&["help"], &["--help"]),
        (&["help", "migrate"], &["help", "migrate"]),
    ] {
        let it = line(words);
        assert!(matches!(it.command, Command::Run { detach: None }), "{words:?}");
        assert_eq!(it.args[1..], *args);
    }
    assert_eq!(line(&["stats"]).meant_verb(), Some("status"));
    assert_eq!(line(&["migrate"]).meant_verb(), None);
    assert!(matches!(parse_with(&["help", "start"], own), Ok(Line::Help(_))));
    // Without a command line, a word is not taken for a verb if the program has commands.
    let own = ProgramTraits { has_commands: true, ..ProgramTraits::default() };
    assert!(matches!(parse_with(&["stats"], own), Ok(Line::Command(_))));
    // Its settings may depend on its arguments.
    let it = line(&["check", "--", "--port", "80"]);
    assert_eq!(it.args[1..], ["--port", "80"]);
    assert!(refused(&["check", "--", "--port"]).contains("does not run the program"));
}

#[test]
fn arguments_after_dashes_are_the_programs() {
    let it = parsed(&["start", "--set", "a=b", "--set=c=d", "--", "stop", "--", "x"]);
    assert!(matches!(it.command, Command::Run { detach: Some(true) }));
    assert_eq!(it.overrides, ["a=b", "c=d"]);
    assert_eq!(it.args, ["app", "stop", "--", "x"]);
    assert_eq!(parsed(&["run"]).args, ["app"]);
}

#[test]
fn verbs_accept_their_options() {
    let command = |words: &[&str]| format!("{:?}", parsed(words).command);
    for (words, wanted) in [
        (&["run"][..], "Run { detach: Some(false) }"),
        (&["stop", "--json"], "Client(Stop { json: true })"),
        (&["restart"], "Client(Restart { json: false, wait: true, exe: None })"),
        (
            &["restart", "--no-wait", "--json", "--"],
            "Client(Restart { json: true, wait: false, exe: None })",
        ),
        (&["status"], "Client(Status { json: false })"),
        (&["status", "--probe=live", "--json"], "Client(Probe { json: true, probe: Live })"),
        (&["logs"], "Logs(LogsOptions { lines: 10, follow: false })"),
        (&["logs", "-fn3"], "Logs(LogsOptions { lines: 3, follow: true })"),
        (&["check", "--json"], "Check { json: true }"),
        (
            &["unit", "--socket", "--install", "--yes", "--notify-reload"],
            "Unit(UnitOptions { sockets: true, notify_reload: true, environment_files: [], install: true, yes: true })",
        ),
        (
            &["unit"],
            "Unit(UnitOptions { sockets: false, notify_reload: false, environment_files: [], install: false, yes: false })",
        ),
    ] {
        assert_eq!(command(words), wanted, "{words:?}");
    }
}

/// No verb has two options of the same name, and none is a synonym of another.
#[test]
fn verb_table_is_consistent() {
    for verb in &VERBS {
        let mut names: Vec<&str> = verb.options.iter().map(|option| option.long).collect();
        names.push("help");
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}: {names:?}", verb.name);
        assert!(synonyms::of_others(verb.name).is_none(), "{}", verb.name);
    }
}

#[test]
fn help_covers_program_and_each_verb() {
    let all = help(&["help"]);
    assert!(all.starts_with("app 1.2.3\n") && all.contains("\n  help     "), "{all}");
    assert_eq!(help(&["help", "help"]), all);
    assert_eq!(help(&["help", "--help"]), all);
    for verb in &VERBS {
        assert!(all.contains(&format!("\n  {:<7}  {}\n", verb.name, verb.about)), "{all}");
        let text = help(&["help", verb.name]);
        assert!(text.contains(&format!("\n\nUsage: app {} [OPTIONS]", verb.name)), "{text}");
        for option in verb.options {
            assert!(text.contains(&format!("--{}", option.long)), "{text}");
        }
        assert_eq!(help(&[verb.name, "--help"]), text);
        assert_eq!(help(&[verb.name, "-h", "--frob"]), text);
    }
    assert_eq!(
        help(&["logs", "--help"]),
        "Show what the daemon wrote, from its log file or the journal\n\n\
         Usage: app logs [OPTIONS]\n\n\
         Options:\n    \
         --set <KEY=VALUE>  Override a configuration key, such as --set drain_timeout=10s\n  \
         -f, --follow           Keep printing new lines until interrupted\n  \
         -n, --lines <N>        Number of lines to print first, 10 by default\n  \
         -h, --help             Show this help\n"
            .replace("    --set", "      --set")
    );
    assert!(help(&["check", "--help"]).contains("drain_timeout"));
    assert!(!help(&["start", "--help"]).contains("ready_timeout"));
}

#[test]
fn help_refuses_unknown_verbs() {
    assert_eq!(refused(&["help", "serve"]), "there is no verb `serve`; `app help` lists the verbs");
    assert_eq!(
        refused(&["help", "start", "stop"]),
        "`help` takes one verb, not 2; `app help` lists the verbs"
    );
}

#[test]
fn suggests_similar_verb() {
    for (words, verb) in [
        (&["strat"][..], "start"),
        (&["restar"], "restart"),
        (&["restrat", "--no-wait"], "restart"),
        (&["staus", "--json"], "status"),
        (&["strt", "--set", "name=b", "--", "x"], "start"),
        (&["log", "-f"], "logs"),
        (&["halp"], "help"),
    ] {
        let first = words[0];
        assert_eq!(
            refused(words),
            format!(
                "there is no verb `{first}`; did you mean `app {verb}`? To pass it to the program: \
                 `app run -- {first}`"
            )
        );
    }
    assert_eq!(parsed(&["strat", "--port", "80"]).args, ["app", "strat", "--port", "80"]);
}

/// `hello reload` must not start a daemon with the argument `reload`.
#[test]
fn suggests_verb_for_foreign_name() {
    let mut seen = 0;
    for (word, verb) in synonyms::all_of_others() {
        seen += 1;
        for behind in [&[][..], &["--now"], &["x"]] {
            let text = refused(&[&[word], behind].concat());
            assert!(text.contains(&format!("did you mean `app {verb}`?")), "{text}");
        }
        // The suggested command line is valid.
        match verb {
            "help" => drop(help(&[verb])),
            _ => drop(parsed(&verb.split(' ').collect::<Vec<_>>())),
        }
        assert_eq!(parsed(&["run", "--", word]).args, ["app", word]);
    }
    assert!(seen > 10);
}

#[test]
fn program_arguments_need_dashes() {
    for (words, wanted) in [
        (
            &["start", "--greeting", "a b"][..],
            "`start` has no option `--greeting`; arguments for the program go after `--`: \
             app start -- --greeting 'a b'",
        ),
        (
            &["run", "--set", "a=b", "file", "--json", "--", "x"],
            "`run` takes no argument `file`; arguments for the program go after `--`: \
             app run --set a=b -- file --json x",
        ),
        (
            &["unit", "--sockets"],
            "`unit` has no option `--sockets`; did you mean `--socket`? Arguments for the program \
             go after `--`: app unit -- --sockets",
        ),
    ] {
        assert_eq!(refused(words), wanted);
    }
}

#[test]
fn wrong_options_are_refused() {
    for (words, wanted) in [
        (&["status", "--jsno"][..], "`status` has no option `--jsno`; did you mean `--json`?"),
        (&["stop", "--jsn=1"], "`stop` has no option `--jsn=1`; did you mean `--json`?"),
        (&["stop", "--now"], "`stop` has no option `--now`; see `app help stop`"),
        (&["logs", "-x"], "`logs` has no option `-x`; see `app help logs`"),
        (&["stop", "now"], "`stop` takes no argument `now`; see `app help stop`"),
        (&["stop", "--json=1"], "`--json` takes no value; write it without `=`"),
        (&["restart", "--json", "--json"], "`--json` is given twice; remove one"),
        (&["start", "--set"], "`--set` needs a value; write --set KEY=VALUE"),
        (&["start", "--set", "--", "a=b"], "`--set` needs a value; write --set KEY=VALUE"),
        (&["start", "--set", "a"], "`--set a`: expected KEY=VALUE, such as drain_timeout=10s"),
        (&["logs", "-n", "all"], "`--lines all`: expected a whole number, such as -n 100"),
        (&["status", "--probe", "well"], "`--probe well`: expected live, ready or startup"),
        (&["unit", "--yes"], "`--yes` requires `--install`; add it"),
    ] {
        assert_eq!(refused(words), wanted);
    }
}

#[test]
fn arguments_without_effect_are_refused() {
    for verb in ["stop", "restart", "status", "logs"] {
        assert_eq!(
            refused(&[verb, "--", "--greeting", "a b"]),
            "`-- --greeting 'a b'` has no effect on a running daemon; `stop` it and `start` it \
             with these arguments"
        );
    }
    assert_eq!(
        refused(&["check", "--", "x"]),
        "`check` does not run the program, so `-- x` has no effect; leave it out"
    );
}
