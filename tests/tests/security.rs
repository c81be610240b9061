//! The chapter on security: each claim names an existing test, each bound is that of the code, and the claims
//! that no other test covers hold.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::Uid;
use unbroken_tests::{Child, Sandbox, skip};

const SOON: Duration = Duration::from_secs(20);

// ---- the chapter --------------------------------------------------------------------------------

/// Each claim in the chapter names a test that exists: `faults_workers::…` for one in `tests/tests`,
/// `runtime::link::…` for a unit test of the runtime.
#[test]
fn each_claim_names_an_existing_test() {
    let chapter = chapter();
    let named = chapter.split('`').skip(1).step_by(2).filter(|name| {
        name.contains("::") && name.chars().all(|c| c == ':' || c == '_' || c.is_alphanumeric())
    });
    let mut found = 0;
    for name in named {
        let parts: Vec<&str> = name.split("::").collect();
        let (test, modules) = parts.split_last().unwrap();
        let (dir, modules) = match modules.split_first().unwrap() {
            (&"runtime", modules) => ("runtime/src", modules),
            (&"file", _) => continue,
            _ => ("tests/tests", modules),
        };
        let place = root().join(dir).join(modules.join("/"));
        let source = [place.with_extension("rs"), place.join("mod.rs")]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_else(|| panic!("`{name}`: there is no such file"));
        let at = source.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("no test `{name}`"));
        let above = source[..at].trim_end().rsplit("\n\n").next().unwrap();
        assert!(above.contains("test]\n") || above.ends_with("test]"), "`{name}` is no test");
        found += 1;
    }
    assert!(found > 40, "only {found} tests are named");
}

#[test]
fn each_bound_matches_the_code() {
    let chapter = chapter();
    let rows = chapter.lines().filter(|line| line.starts_with("| ") && line.contains(".rs` |"));
    let mut found = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, stated, place] = cells[..] else { panic!("{row}") };
        let mut names = place.split('`').skip(1).step_by(2);
        let (constant, file) = (names.next().unwrap(), names.next().unwrap());
        let source = ["runtime/src", "runtime"]
            .iter()
            .find_map(|dir| fs::read_to_string(root().join(dir).join(file)).ok())
            .unwrap_or_else(|| panic!("there is no {file}"));
        let declared = declared(&source, constant);
        let declared = declared.unwrap_or_else(|| panic!("{file} has no {constant}"));
        assert_eq!(as_stated(stated), of_code(declared, &source), "{row}");
        found += 1;
    }
    assert!(found > 15, "only {found} bounds are there");
}

/// Parses a number with its unit, as the chapter has it. Times are in milliseconds.
fn as_stated(text: &str) -> u64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => panic!("what is {text}?"),
    };
    number.parse::<u64>().unwrap() * unit
}

/// The expression with which a constant is declared.
fn declared<'a>(source: &'a str, constant: &str) -> Option<&'a str> {
    let declaration = format!("const {constant}: ");
    let (_, rest) = source.lines().find_map(|line| line.split_once(&declaration))?;
    Some(rest.strip_suffix(';')?.split_once(" = ")?.1)
}

/// Evaluates a constant: a product of numbers and other constants, or a duration in milliseconds.
fn of_code(expression: &str, source: &str) -> u64 {
    let call = |of: &str| expression.strip_prefix(of)?.strip_suffix(')');
    let factor = |text: &str| match declared(source, text) {
        Some(other) => of_code(other, source),
        None => text.replace('_', "").parse().unwrap(),
    };
    let product = |text: &str| -> u64 { text.split('*').map(|it| factor(it.trim())).product() };
    match (call("Duration::from_secs("), call("Duration::from_millis(")) {
        (Some(seconds), _) => product(seconds) * 1000,
        (_, Some(milliseconds)) => product(milliseconds),
        _ => product(expression),
    }
}

fn chapter() -> String {
    fs::read_to_string(root().join("book/src/security.md")).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

// ---- what it claims -----------------------------------------------------------------------------

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn control_socket_is_private() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    assert_eq!(mode_of(&sandbox.runtime_dir()), 0o700);
    assert_eq!(mode_of(&sandbox.socket()), 0o600);
    sandbox.stop();
}

/// A runtime directory that others can write, or that another user owns, is refused: they could replace
/// everything in it.
#[test]
fn runtime_directory_of_others_is_refused() {
    let sandbox = Sandbox::new("http");
    let dir = sandbox.runtime_dir();
    let refused = |why: &str| {
        let output = sandbox.verb(["start"]).expect_code(1);
        assert!(output.stderr.contains(why) && output.stderr.contains("`runtime_dir`"), "{output}");
    };
    fs::create_dir_all(&dir).expect("a directory");
    mode(&dir, 0o777);
    refused("is writable by others");
    mode(&dir, 0o770);
    refused("is writable by others");
    if rustix::process::geteuid().is_root() {
        mode(&dir, 0o700);
        chown(&dir, Some(65_533), None).expect("another owner");
        refused("belongs to user 65533");
        let real = sandbox.path("real");
        fs::rename(&dir, &real).expect("moved");
        symlink(&real, &dir).expect("a link");
        lchown(&dir, Some(65_533), None).expect("another owner");
        refused("is not a directory");
        fs::remove_file(&dir).expect("a link");
    } else {
        skip("a directory of another user needs root");
        mode(&dir, 0o700);
    }
    sandbox.start();
    sandbox.stop();
}

/// If another user has put a pidfile and a control socket at the daemon's paths, the verbs send no request to
/// that socket and show no answer of it.
#[test]
fn impostor_daemon_is_ignored() {
    if !rustix::process::geteuid().is_root() {
        return skip("other users need root");
    }
    let (pretender, victim) = (65_533, 65_534);
    let sandbox = Sandbox::new("http");
    let dir = sandbox.runtime_dir();
    fs::create_dir_all(&dir).expect("a directory");
    mode(sandbox.dir(), 0o755);
    mode(&dir, 0o755);
    chown(&dir, Some(pretender), None).expect("another owner");
    let mut pidfile = fs::File::create(sandbox.pidfile()).expect("a pidfile");
    writeln!(pidfile, "1").expect("written");
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&pidfile, FcntlArg::F_OFD_SETLK(&lock)).expect("the lock");
    let path = sandbox.socket();
    // The kernel records the user who calls listen(2). User ids are per thread, so only this thread changes.
    let listening = std::thread::spawn(move || {
        let uid = Uid::from_raw(pretender);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&socket, 4)?;
        Ok::<OwnedFd, rustix::io::Errno>(socket)
    });
    let socket = listening.join().expect("no panic").expect("a socket");
    mode(&sandbox.socket(), 0o666);
    for verb in ["status", "stop", "restart"] {
        let ids = [format!("--reuid={victim}"), format!("--regid={victim}")];
        let mut arguments: Vec<std::ffi::OsString> = ids.into_iter().map(Into::into).collect();
        arguments.extend(["--clear-groups".into(), sandbox.image().into(), verb.into()]);
        let client = Child::spawn(&mut sandbox.command_of("setpriv", arguments));
        let caller = rustix::net::accept(&socket).expect("it calls");
        let mut asked = [0; 1000];
        let heard = rustix::net::recv(&caller, &mut asked[..], RecvFlags::empty());
        if heard.is_ok_and(|(_, length)| length > 0) {
            let lie = br#"{"type":"refused","reason":"believe me"}"#;
            let _ = rustix::net::send(&caller, lie, SendFlags::NOSIGNAL);
        }
        drop(caller);
        let output = client.wait(SOON).expect_code(1);
        assert!(output.stderr.contains("belongs to another user"), "{output}");
        assert!(!output.stderr.contains("believe me"), "{output}");
    }
}
