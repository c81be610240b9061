//! The chapter for users of other tools: everything in its column *here* exists.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use unbroken_schema::{Input, Kind, LIMITS, SECTIONS};

const HEADER: [&str; 3] = ["there", "here", "note"];

/// The headings of the chapter, each with a table.
const TOOLS: [&str; 15] = [
    "systemd units",
    "supervisord",
    "nohup",
    "pm2",
    "nginx",
    "gunicorn",
    "puma",
    "go-daemon",
    "overseer",
    "grace and endless",
    "tableflip",
    "ecdysis",
    "shellflip",
    "pingora",
    "daemonize",
];

#[test]
fn everything_in_the_column_here_exists() {
    let code = Code::read();
    let (mut rows, mut wrong) = (0, Vec::new());
    for (tool, table) in tables(&chapter()) {
        for row in table {
            rows += 1;
            wrong.extend(mistake(&row, &code).map(|reason| format!("{tool}: {row}\n  {reason}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows > 350, "only {rows} rows were found");
}

#[test]
fn each_tool_has_a_table_and_a_link() {
    let chapter = chapter();
    let tools: Vec<String> = tables(&chapter).into_iter().map(|(tool, _)| tool).collect();
    assert_eq!(tools, TOOLS);
    for tool in TOOLS {
        let link = format!("](#{})", tool.replace(' ', "-"));
        assert!(chapter.contains(&link), "the list at the top has no link to {tool}");
    }
}

#[test]
fn no_name_has_two_rows_in_a_table() {
    for (tool, table) in tables(&chapter()) {
        let mut seen = BTreeSet::new();
        for row in table {
            let there = cells(&row)[0].to_owned();
            assert!(seen.insert(there.clone()), "{tool}: {there} has two rows");
        }
    }
}

/// Notes and paragraphs name methods, too.
#[test]
fn every_method_of_the_daemon_exists() {
    let (chapter, code) = (chapter(), Code::read());
    let named = chapter.split('`').skip(1).step_by(2).filter(|name| name.starts_with("Daemon::"));
    for name in named {
        assert!(code.has(name), "there is no `{name}`");
    }
}

#[test]
fn wrong_rows_are_found() {
    let code = Code::read();
    for right in [
        "| `a` | `drain_timeout`, `kill_timeout` | |",
        "| `a` | `restart = \"always\"` | with a value |",
        "| `a` | `configure` | only in the attribute |",
        "| `a` | `listen` | |",
        "| `a` | `listen.<name>.idle_timeout`, `listen.<name>.env` | |",
        "| `a` | `limits.<name>`, `limits.nofile`, `app.<key>` | |",
        "| `a` | `hello restart`, `hello restart --no-wait`, `hello logs -f` | |",
        "| `a` | `hello help` | |",
        "| `a` | `Daemon::draining`, `Daemon::serve`, `http::until_draining` | |",
        "| `a` | `#[daemon]`, `USR2`, `NOTIFY_SOCKET` | |",
        "| `a` | none | for this reason |",
    ] {
        assert_eq!(mistake(right, &code), None, "{right}");
    }
    for wrong in [
        "| `a` | `drain_time` | |",
        "| `a` | `drain_timeout = \"soon\"` | |",
        "| `a` | `restart = \"sometimes\"` | |",
        "| `a` | `listen.<name>.idle` | |",
        "| `a` | `listen.http.idle_timeout` | |",
        "| `a` | `limits.files` | |",
        "| `a` | `hello reload` | |",
        "| `a` | `hello restart --force` | |",
        "| `a` | `hello stop --no-wait` | an option of another verb |",
        "| `a` | `hello restart now` | |",
        "| `a` | `Daemon::upgrade` | |",
        "| `a` | `Listener::draining` | a method of another type |",
        "| `a` | `http::serve_forever` | |",
        "| `a` | `WINCH` | |",
        "| `a` | `PIDFILE` | |",
        "| `a` | `#[tokio::main]` | |",
        "| `a` | drain_timeout | not as code |",
        "| `a` | `drain_timeout` and `kill_timeout` | not a list |",
        "| `a` | `drain_timeout`, none | |",
        "| `a` | none | |",
        "| `a` | | |",
        "| | `drain_timeout` | |",
        "| `a` | `drain_timeout` |",
        "| `a` | `drain_timeout` | a | b |",
    ] {
        assert!(mistake(wrong, &code).is_some(), "{wrong}");
    }
}

// ---- the chapter --------------------------------------------------------------------------------

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chapter() -> String {
    fs::read_to_string(root().join("book/src/coming-from.md")).unwrap()
}

/// The tables of a chapter, each with its heading: the rows below the header.
fn tables(chapter: &str) -> Vec<(String, Vec<String>)> {
    let mut tables = Vec::new();
    for section in chapter.split("\n## ").skip(1) {
        let heading = section.lines().next().unwrap();
        let mut rows = section.lines().filter(|line| line.starts_with('|'));
        let header = rows.next().unwrap_or_else(|| panic!("{heading} has no table"));
        assert_eq!(cells(header), HEADER, "{heading}");
        assert_eq!(rows.next(), Some("|---|---|---|"), "{heading}");
        tables.push((heading.to_owned(), rows.map(str::to_owned).collect()));
    }
    tables
}

fn cells(row: &str) -> Vec<&str> {
    let inner = row.strip_prefix('|').and_then(|row| row.strip_suffix('|')).unwrap_or(row);
    inner.split('|').map(str::trim).collect()
}

/// What is wrong with a row.
fn mistake(row: &str, code: &Code) -> Option<String> {
    let [there, here, note] = cells(row)[..] else {
        return Some("a row has three cells".to_owned());
    };
    if there.is_empty() {
        return Some("the first cell is empty".to_owned());
    }
    if here == "none" {
        return note.is_empty().then(|| "`none` needs a reason in the note".to_owned());
    }
    let named: Option<Vec<&str>> =
        here.split(", ").map(|name| name.strip_prefix('`')?.strip_suffix('`')).collect();
    let Some(named) = named else {
        return Some(format!("{here:?} is neither `none` nor a list of names as code"));
    };
    let unknown = named.into_iter().find(|name| !code.has(name))?;
    Some(format!("there is no `{unknown}`"))
}

// ---- the code -----------------------------------------------------------------------------------

/// What the chapter may name.
struct Code {
    /// The sources of the runtime, a text for each file.
    sources: Vec<String>,
    /// The verbs, each with its options.
    verbs: Vec<(String, Vec<String>)>,
    /// The signals in the chapter on verbs.
    signals: BTreeSet<String>,
}

impl Code {
    fn read() -> Code {
        let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
        let mut sources = Vec::new();
        sources_below(&root().join("runtime/src"), &mut sources);
        let (verbs, options) =
            (read("runtime/src/cli/verbs/mod.rs"), read("runtime/src/cli/options.rs"));
        Code {
            sources,
            verbs: verbs_of(&verbs, &options),
            signals: signals(&read("book/src/verbs.md")),
        }
    }

    fn has(&self, name: &str) -> bool {
        if let Some(command) = name.strip_prefix("hello ") {
            return self.has_command(command);
        }
        if let Some((of, function)) = name.split_once("::").filter(|_| !name.starts_with('#')) {
            return self.has_function(of, function);
        }
        if name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
            let literal = format!("\"{name}\"");
            return self.signals.contains(name)
                || self.sources.iter().any(|source| source.contains(&literal));
        }
        name == "#[daemon]" || is_setting(name)
    }

    /// Whether a command line without the program's name is a verb with options of it.
    fn has_command(&self, command: &str) -> bool {
        let mut words = command.split(' ');
        let verb = words.next().unwrap_or_default();
        let Some((_, options)) = self.verbs.iter().find(|(name, _)| name == verb) else {
            return false;
        };
        words.all(|word| options.iter().any(|option| option == word))
    }

    /// Whether a type has this method, or a module this function.
    fn has_function(&self, of: &str, function: &str) -> bool {
        let is_type = of.starts_with(|c: char| c.is_ascii_uppercase());
        let indent = if is_type { "    " } else { "" };
        let is_declaration = |line: &str| {
            ["pub fn", "pub async fn", "pub const fn"].iter().any(|declaration| {
                let rest = line.strip_prefix(&format!("{indent}{declaration} {function}"));
                rest.is_some_and(|rest| rest.starts_with(['(', '<']))
            })
        };
        self.sources.iter().any(|source| match is_type {
            true => {
                let block = format!("\nimpl {of} {{\n");
                let blocks = source.split(&block).skip(1);
                blocks
                    .filter_map(|rest| rest.split("\n}").next())
                    .any(|it| it.lines().any(is_declaration))
            }
            false => source.lines().any(is_declaration),
        })
    }
}

/// Whether a name is a key or a field, alone or with a value that it takes.
fn is_setting(name: &str) -> bool {
    let (name, value) = match name.split_once(" = ") {
        Some((name, value)) => (name, Some(value.trim_matches('"'))),
        None => (name, None),
    };
    if value.is_none()
        && (SECTIONS.contains(&name) || ["limits.<name>", "app.<key>"].contains(&name))
    {
        return true;
    }
    if let Some(limit) = name.strip_prefix("limits.") {
        return LIMITS.contains(&limit) && value.is_none_or(|value| takes(Kind::Limit, value));
    }
    let key = match name.strip_prefix("listen.<name>.") {
        Some(field) => unbroken_schema::listener_field(field)
            .or_else(|| unbroken_schema::listener_attribute_field(field)),
        None => unbroken_schema::key(name).or_else(|| unbroken_schema::attribute_key(name)),
    };
    key.is_some_and(|key| value.is_none_or(|value| takes(key.kind, value)))
}

fn takes(kind: Kind, value: &str) -> bool {
    kind.parse(&Input::Untyped(value)).is_ok()
}

fn sources_below(dir: &Path, sources: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// The verbs in the table of the parser, each with its options as they are typed.
fn verbs_of(verbs: &str, options: &str) -> Vec<(String, Vec<String>)> {
    let (_, table) = verbs.split_once("static VERBS").unwrap();
    let (table, _) = table.split_once("\n];").unwrap();
    let mut found: Vec<(String, Vec<String>)> = table
        .split("    Verb {\n")
        .skip(1)
        .map(|verb| {
            let name = literal_after(verb, "name: ").unwrap();
            let (_, listed) = verb.split_once("options: &[").unwrap();
            let (listed, _) = listed.split_once(']').unwrap();
            let names = listed.split("options::").skip(1);
            let typed = names.flat_map(|name| typed(name.trim_matches([',', ' ', '\n']), options));
            (name, typed.collect())
        })
        .collect();
    let help = literal_after(verbs, "const HELP: &str = ").unwrap();
    found.push((help, Vec::new()));
    assert!(found.len() > 8 && found.iter().any(|(_, options)| options.len() > 3), "{found:?}");
    found
}

/// How an option is typed: its long form, and its short one if there is one.
fn typed(constant: &str, options: &str) -> Vec<String> {
    let (_, declaration) = options.split_once(&format!("const {constant}: Opt =")).unwrap();
    let (declaration, _) = declaration.split_once(";\n").unwrap();
    let long = literal_after(declaration, "long: ")
        .or_else(|| literal_after(declaration, "switch(\n    "))
        .or_else(|| literal_after(declaration, "switch("));
    let short = declaration.split_once("short: Some('").and_then(|(_, rest)| rest.chars().next());
    let short = short.map(|letter| format!("-{letter}"));
    [format!("--{}", long.unwrap())].into_iter().chain(short).collect()
}

/// The string literal after `place`.
fn literal_after(source: &str, place: &str) -> Option<String> {
    let (_, rest) = source.split_once(place)?;
    let (literal, _) = rest.strip_prefix('"')?.split_once('"')?;
    Some(literal.to_owned())
}

/// The signals to the supervisor, in the first column of their table.
fn signals(verbs: &str) -> BTreeSet<String> {
    let (_, section) = verbs.split_once("\n## Signals\n").unwrap();
    let (_, table) = section.split_once("|---|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let signals: BTreeSet<String> = rows
        .flat_map(|row| cells(row)[0].split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(signals.contains("TERM") && signals.len() > 4, "{signals:?}");
    signals
}
