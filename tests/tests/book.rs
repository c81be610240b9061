//! The book agrees with the code: its shell sessions are run, its files are parsed, its tables compared.
//!
//! The test runs every `sh` block of a chapter and compares the output with the `text` or `json` block that
//! follows. Text is compared line by line, without regard to numbers, spaces and the order of lines, because
//! several processes write at the same time; JSON is compared by its keys. A `toml` block must be a valid
//! configuration. `rust` blocks are doctests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use unbroken_tests::program;

const CHAPTERS: [&str; 19] = [
    "introduction",
    "quick-start",
    "main",
    "converting",
    "servers",
    "testing",
    "restart",
    "clients",
    "crashes",
    "configuration",
    "privileges",
    "verbs",
    "coming-from",
    "logging",
    "systemd",
    "containers",
    "scale",
    "troubleshooting",
    "security",
];

/// The port that the book uses. The tests replace it by a free one.
const BOOK_PORT: &str = "8080";

/// The time that all commands of a chapter may take together.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn sessions_of_the_quick_start_match() {
    run_session("quick-start", 10);
}

#[test]
fn sessions_of_the_configuration_reference_match() {
    run_session("configuration", 3);
}

#[test]
fn sessions_of_the_verbs_match() {
    run_session("verbs", 5);
}

#[test]
fn sessions_of_logging_match() {
    run_session("logging", 2);
}

#[test]
fn every_session_is_run() {
    for chapter in CHAPTERS {
        let run = ["quick-start", "configuration", "verbs", "logging"].contains(&chapter);
        let has = blocks(&chapter_text(chapter)).iter().any(|block| block.language == "sh");
        assert_eq!(run, has, "{chapter}.md");
    }
}

#[test]
fn every_chapter_is_tested() {
    let summary = chapter_text("SUMMARY");
    let listed: BTreeSet<&str> =
        summary.split(['(', ')']).filter_map(|part| part.strip_suffix(".md")).collect();
    assert_eq!(listed, BTreeSet::from(CHAPTERS));
    let doctests = include_str!("../src/book.rs");
    for chapter in CHAPTERS {
        assert!(doctests.contains(&format!("book/src/{chapter}.md")), "{chapter} has no doctests");
    }
}

#[test]
fn every_block_is_of_a_kind_that_is_tested() {
    for chapter in CHAPTERS {
        for block in blocks(&chapter_text(chapter)) {
            let known = ["rust,no_run", "sh", "text", "toml", "json"];
            let (kind, text) = (&block.language, &block.text);
            assert!(known.contains(&kind.as_str()), "{chapter}.md: {kind:?}\n{text}");
        }
    }
}

#[test]
fn toml_blocks_are_valid_configurations() {
    let sandbox = Sandbox::new();
    let mut found = 0;
    for chapter in CHAPTERS {
        for block in blocks(&chapter_text(chapter)).iter().filter(|b| b.language == "toml") {
            found += 1;
            let file = sandbox.path().join("quickstart.toml");
            fs::write(&file, &block.text).unwrap();
            let set = format!("config={}", file.display());
            let out = sandbox.quickstart().args(["check", "--set", &set]).output().unwrap();
            // `check` prints a valid configuration even if this host lacks its users and directories.
            assert!(!out.stdout.is_empty(), "{chapter}.md: {}\n{}", block.text, both(&out));
        }
    }
    assert!(found > 0, "the reference shows a file");
}

/// The table of keys has the keys, types and defaults that `check --help` prints, and the variable that sets
/// each key.
#[test]
fn key_table_matches_the_code() {
    let sandbox = Sandbox::new();
    let help = sandbox.quickstart().args(["check", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut of_code: Vec<[String; 3]> = Vec::new();
    for line in help.lines().filter(|line| line.contains("; default: ")) {
        let (key, rest) = line.split_once(' ').unwrap();
        let (meaning, default) = rest.rsplit_once("; default: ").unwrap();
        let (_, kind) = meaning.rsplit_once(": ").unwrap();
        let supervised = default.strip_suffix(" (with graceful_restart)");
        let key = format!("`{key}`{}", if supervised.is_some() { " ¹" } else { "" });
        of_code.push([key, kind.to_owned(), supervised.unwrap_or(default).to_owned()]);
    }
    let text = chapter_text("configuration");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains("| `DAEMON_"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let of_book: Vec<[String; 3]> = rows
        .iter()
        .map(|row| [row[0].to_owned(), row[1].to_owned(), row[2].replace('`', "")])
        .collect();
    assert!(of_code.len() > 20, "{help}");
    assert_eq!(of_book, of_code);

    for row in rows {
        let (key, variable) = (row[0].split('`').nth(1).unwrap(), row[3].trim_matches('`'));
        check_variable(&sandbox, key, row[1], variable);
    }
}

/// Sets the variable and asserts that `check` names it as the source of the key.
fn check_variable(sandbox: &Sandbox, key: &str, kind: &str, variable: &str) {
    let config = sandbox.path().join("empty.toml");
    fs::write(&config, "").unwrap();
    let (name, upper) = match key.starts_with("limits.") {
        true => ("nofile", "NOFILE"),
        false => ("my-api", "MY_API"),
    };
    let key = key.replace("<name>", name).replace(".addr", "");
    let variable = variable.replace("<NAME>", upper);
    let value = match kind {
        _ if key == "config" => config.to_str().unwrap(),
        "text" => "other",
        "a path" => "/nowhere",
        "auto or manual" => "manual",
        "no, on-failure or always" => "always",
        "true or false" => "yes",
        "a duration such as \"30s\"" => "10s",
        "a whole number" => "7",
        "an octal mode" => "0022",
        "none, text, json, journald or auto" => "auto",
        "error, warn, info, debug or trace" => "debug",
        "a literal address" | "an address and a port" => "127.0.0.1:1",
        "a name or a number" => "root",
        "names or numbers" => "root,7",
        "paths" => "-/nowhere",
        "names of capabilities" => "none",
        "a limit such as \"1024:4096\"" => "16:32",
        "a number, also below 0" => "19",
        _ => panic!("{key} is of an unknown type, {kind}"),
    };
    let mut check = sandbox.quickstart();
    check.args(["check", "--json"]).env(&variable, value);
    if key.starts_with("listen.my-api.") {
        // A variable cannot express the hyphen in this name, so another source declares the listener.
        let tcp = ["v6only", "tcp_keepalive"].iter().any(|field| key.ends_with(field));
        let addr = if tcp { "[::1]:1" } else { "unix:/nowhere.sock" };
        check.args(["--set", &format!("listen.my-api={addr}")]);
    }
    let out = check.output().unwrap();
    // The exit code does not matter: `check` also fails if this host does not fit the configuration.
    assert!(!out.stdout.is_empty(), "{variable}={value}: {}", both(&out));
    let report: Json = serde_json::from_slice(&out.stdout).unwrap();
    let key = if key == "listen.my-api" { "listen.my_api" } else { &key };
    assert_eq!(report[key]["source"], variable.as_str(), "{key}: {}", both(&out));
}

// ---- sessions -----------------------------------------------------------------------------------

/// Runs all `sh` blocks of a chapter as one script. At least `least` of them must have an output to compare.
fn run_session(chapter: &str, least: usize) {
    let sandbox = Sandbox::new();
    let text = chapter_text(chapter);
    let blocks = blocks(&text);
    let mut script =
        String::from("set -euo pipefail\ntrap 'quickstart stop >/dev/null 2>&1 || true' EXIT\n");
    for (number, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let commands = block.text.replace(BOOK_PORT, &sandbox.port);
        let out = sandbox.path().join(format!("out-{number}"));
        script.push_str(&format!("exec > '{0}' 2>&1\n{commands}\n", out.display()));
    }
    let mut child = sandbox
        .command("bash")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if began.elapsed() > LIMIT => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let written = |number: usize| {
        let text = fs::read_to_string(sandbox.path().join(format!("out-{number}")));
        text.unwrap_or_else(|_| "(not reached)".to_owned())
    };
    let whole = || -> String {
        let shell = blocks.iter().enumerate().filter(|(_, block)| block.language == "sh");
        shell.map(|(number, block)| format!("$ {}{}\n", block.text, written(number))).collect()
    };
    assert!(status.is_some_and(|s| s.success()), "{chapter}.md, {status:?}:\n{}", whole());

    let mut compared = 0;
    for (number, pair) in blocks.windows(2).enumerate() {
        if pair[0].language != "sh" {
            continue;
        }
        let (real, printed) = (sandbox.as_in_the_book(&written(number)), &pair[1].text);
        let same = match pair[1].language.as_str() {
            "text" => plain(&real) == plain(&sandbox.as_in_the_book(printed)),
            "json" => {
                // The text before and after the object was written to stderr.
                let from = real.find('{').unwrap_or(0);
                let mut values =
                    serde_json::Deserializer::from_str(&real[from..]).into_iter::<Json>();
                let real = values.next().unwrap().unwrap();
                shape(&real) == shape(&serde_json::from_str(printed).unwrap())
            }
            _ => continue,
        };
        assert!(
            same,
            "{chapter}.md:\n$ {}\n--- the book has\n{printed}\n--- it was\n{real}",
            pair[0].text
        );
        compared += 1;
    }
    assert!(compared >= least, "{chapter}.md: only {compared} blocks were compared");
}

/// The sorted lines of a text, without what differs from run to run.
fn plain(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(plain_line).filter(|l| !l.is_empty()).collect();
    lines.sort();
    lines
}

fn plain_line(line: &str) -> String {
    let mut plain = String::new();
    for word in line.split_whitespace() {
        let mut in_number = false;
        for c in word.chars() {
            let number = c.is_ascii_digit() || (in_number && c == '.');
            if number && !in_number {
                plain.push('#');
            } else if !number {
                plain.push(c);
            }
            in_number = number;
        }
        plain.push(' ');
    }
    plain
}

/// Replaces the build id in a line. It differs between builds, and not every linker writes one.
fn plain_build(line: &str) -> String {
    match (line.split_once(", build id "), line.split_once(" bytes, written ")) {
        (Some((before, after)), _) => {
            let id = after.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(after.len());
            format!("{before}, build id #{}", &after[id..])
        }
        (None, Some((before, after))) => {
            let (path, _) = before.rsplit_once(", ").unwrap();
            let (_, rest) = after.split_once(", no build id").unwrap();
            format!("{path}, build id #{rest}")
        }
        _ => line.to_owned(),
    }
}

/// The keys of a JSON value, with the types of their values.
fn shape(value: &Json) -> Json {
    match value {
        Json::Object(map) => map
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                // Null where the linker writes none.
                ("build_id", _) => (key.clone(), "text".into()),
                _ => (key.clone(), shape(value)),
            })
            .collect(),
        Json::Array(items) => items.iter().map(shape).collect(),
        Json::String(_) => "text".into(),
        Json::Number(_) => 0.into(),
        Json::Bool(_) | Json::Null => value.clone(),
    }
}

/// A directory with the program of the quick start, and an environment that shows nothing of this machine.
struct Sandbox {
    dir: tempfile::TempDir,
    port: String,
}

impl Sandbox {
    fn new() -> Sandbox {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sandbox = Sandbox { dir, port: port.to_string() };
        fs::create_dir_all(sandbox.path().join("bin")).unwrap();
        fs::create_dir_all(sandbox.path().join("target/debug")).unwrap();
        program::copy(built(), &sandbox.path().join("target/debug/quickstart"));
        // The program is built already. Like cargo, this replaces it by a new file.
        sandbox.tool(
            "cargo",
            r#"
            test "$*" = "build -p quickstart"
            cp target/debug/quickstart target/debug/new
            mv target/debug/new target/debug/quickstart
            "#,
        );
        // A machine with a Rust toolchain may lack curl.
        sandbox.tool(
            "curl",
            r#"
            test "$1" = -s
            url=${2#http://}
            host=${url%%/*} path=/${url#*/}
            test "$host" = "$url" && path=/
            exec 3<> "/dev/tcp/127.0.0.1/${host#*:}"
            printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$host" >&3
            sed '1,/^\r$/d' <&3
            "#,
        );
        sandbox
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.path().join("bin").join(name);
        program::script(&path, &format!("#!/usr/bin/env bash\nset -eu\n{script}"));
    }

    fn command(&self, program: &str) -> Command {
        let at = |path: &str| self.path().join(path);
        let system = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{system}", at("bin").display(), at("target/debug").display());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("RUNTIME_DIRECTORY", at("run"))
            .env("LOGS_DIRECTORY", at("log"))
            .env("DAEMON_LISTEN_HTTP", format!("127.0.0.1:{}", self.port))
            .current_dir(self.path());
        command
    }

    /// A command that runs the program without the shell of a session.
    fn quickstart(&self) -> Command {
        self.command(self.path().join("target/debug/quickstart").to_str().unwrap())
    }

    /// Replaces the paths of this run by those in the book.
    fn as_in_the_book(&self, text: &str) -> String {
        let at = |path: &str| self.path().join(path).display().to_string();
        text.replace(&at("run"), "/run/user/1000/quickstart")
            .replace(&at("log"), "/home/me/.local/state/quickstart")
            .replace(&self.path().display().to_string(), "/home/me/unbroken")
            .lines()
            .map(|line| plain_build(line) + "\n")
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A session that failed leaves a daemon behind. A second failure is of no interest.
        let _ = self.quickstart().arg("stop").output();
    }
}

/// The program of the quick start, built as the book describes.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| unbroken_tests::example::built("quickstart"))
}

// ---- pages --------------------------------------------------------------------------------------

struct Block {
    language: String,
    text: String,
}

fn chapter_text(name: &str) -> String {
    let path = format!("{}/../book/src/{name}.md", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text = text.map(|line| format!("{line}\n")).collect();
            blocks.push(Block { language: language.to_owned(), text });
        }
    }
    blocks
}

fn both(out: &Output) -> String {
    let (stdout, stderr) = (&out.stdout, &out.stderr);
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}
