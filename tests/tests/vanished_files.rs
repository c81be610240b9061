//! The daemon restores its files when they are removed, and leaves alone what others put in their place.

#![allow(clippy::expect_used)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use unbroken_tests::{Process, Sandbox, Signal, eventually, skip};

const SOON: Duration = Duration::from_secs(60);

/// Starts two daemons, supervised and solo, each with a unix listener in a directory of its own.
fn sandboxes() -> [Sandbox; 2] {
    ["http", "solo-http"].map(sandbox)
}

fn sandbox(fixture: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(fixture);
    fs::create_dir(sandbox.path("sockets")).expect("a directory");
    fs::set_permissions(sandbox.path("sockets"), fs::Permissions::from_mode(0o711))
        .expect("a mode");
    let addr = format!("unix:{}", listener(&sandbox).display());
    sandbox.set("DAEMON_LISTEN_HTTP", addr).set("DAEMON_LISTEN_HTTP__MODE", "0620");
    sandbox.start();
    sandbox
}

fn listener(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("sockets/app.sock")
}

fn ask(path: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

/// Stops all threads of a process by a signal.
#[track_caller]
fn stop(process: &Process) {
    process.signal(Signal::STOP);
    let tasks = || fs::read_dir(format!("/proc/{}/task", process.pid())).expect("threads");
    eventually("all threads are stopped", SOON, || {
        tasks().flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
        })
    });
}

/// Waits until the file exists again and the log reports that it was restored.
#[track_caller]
fn comes_back(sandbox: &Sandbox, path: &Path) {
    eventually(&format!("{} is back", path.display()), SOON, || path.exists());
    eventually("a log line", SOON, || {
        sandbox.log().contains(&format!("{} was missing and was restored", path.display()))
    });
}

fn files(sandbox: &Sandbox) -> Vec<(String, String)> {
    let output = sandbox.verb(["status", "--json"]).expect_code(0);
    let status: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let text = |it: &serde_json::Value, key: &str| it[key].as_str().expect("text").to_owned();
    let files = status["files"].as_array().expect("files");
    files.iter().map(|it| (text(it, "path"), text(it, "state"))).collect()
}

#[test]
fn removed_listener_is_restored() {
    for sandbox in sandboxes() {
        let path = listener(&sandbox);
        answer(ask(&path).expect("a connection"));
        assert_eq!(files(&sandbox), []);
        fs::remove_file(&path).expect("a socket");
        comes_back(&sandbox, &path);
        answer(ask(&path).expect("a connection"));
        assert_eq!(mode(&path), 0o620);
        assert_eq!(files(&sandbox), [(path.display().to_string(), "restored".to_owned())]);
        sandbox.verb(["status"]).expect_code(0).expect_text("was missing and was restored at");
        // Remove it again, by a rename.
        fs::rename(&path, sandbox.path("elsewhere")).expect("a socket");
        eventually("it is back", SOON, || path.exists());
        answer(ask(&path).expect("a connection"));
        sandbox.stop();
        assert!(!path.exists(), "it goes with the daemon");
    }
}

/// Clients in the accept queue of the removed socket are served, as are those that connect to the new one.
#[test]
fn clients_in_the_queue_are_served() {
    for sandbox in sandboxes().into_iter().take(1) {
        let path = listener(&sandbox);
        let worker = sandbox.worker();
        stop(&worker);
        let queued: Vec<_> = (0..9).map(|_| ask(&path).expect("a connection")).collect();
        fs::remove_file(&path).expect("a socket");
        comes_back(&sandbox, &path);
        let more: Vec<_> = (0..9).map(|_| ask(&path).expect("a connection")).collect();
        worker.signal(Signal::CONT);
        queued.into_iter().chain(more).for_each(|stream| _ = answer(stream));
        sandbox.stop();
    }
}

/// Every client that could connect is served, although the socket is removed repeatedly under load.
#[test]
fn connected_clients_are_served_under_load() {
    for sandbox in sandboxes() {
        let path = listener(&sandbox);
        let over = AtomicBool::new(false);
        let served: u64 = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut served = 0;
                        while !over.load(Ordering::SeqCst) {
                            let refused =
                                [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
                            match UnixStream::connect(&path) {
                                Err(error) if refused.contains(&error.kind()) => {}
                                Err(error) => panic!("{error}"),
                                Ok(mut stream) => {
                                    let head =
                                        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                                    stream.write_all(head).expect("a request");
                                    answer(stream);
                                    served += 1;
                                }
                            }
                        }
                        served
                    })
                })
                .collect();
            for _ in 0..20 {
                let old = inode(&path);
                fs::remove_file(&path).expect("a socket");
                eventually("another socket", SOON, || {
                    inode(&path).is_some_and(|new| Some(new) != old) && ask(&path).is_ok()
                });
            }
            over.store(true, Ordering::SeqCst);
            clients.into_iter().map(|client| client.join().expect("a client")).sum()
        });
        assert!(served > 0);
        sandbox.stop();
    }
}

#[test]
fn removed_blocking_listener_is_restored() {
    let mut sandbox = Sandbox::new("sync");
    let path = sandbox.path("echo.sock");
    sandbox.set("DAEMON_LISTEN_ECHO", format!("unix:{}", path.display()));
    sandbox.start();
    for _ in 0..3 {
        let waiting = UnixStream::connect(&path).expect("a connection");
        fs::remove_file(&path).expect("a socket");
        comes_back(&sandbox, &path);
        for mut stream in [waiting, UnixStream::connect(&path).expect("a connection")] {
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            stream.write_all(b"hello\n").expect("a line");
            let mut line = [0; 8];
            stream.read_exact(&mut line).expect("an answer");
            assert_eq!(&line, b"1 hello\n");
        }
        fs::write(sandbox.log_file(), "").expect("the log");
    }
    sandbox.stop();
}

#[test]
fn pidfile_and_control_socket_are_restored() {
    for sandbox in sandboxes() {
        let pid = fs::read_to_string(sandbox.pidfile()).expect("the pidfile");
        let written = fs::metadata(sandbox.pidfile()).expect("a file").modified().expect("a time");
        for path in [sandbox.pidfile(), sandbox.socket()] {
            fs::remove_file(&path).expect("a file");
            comes_back(&sandbox, &path);
        }
        assert_eq!(fs::read_to_string(sandbox.pidfile()).expect("the pidfile"), pid);
        assert_eq!(fs::metadata(sandbox.pidfile()).expect("a file").modified().ok(), Some(written));
        assert_eq!(mode(&sandbox.socket()), 0o600);
        let mut start = sandbox.command(["start"]);
        unbroken_tests::Child::spawn(&mut start)
            .wait(SOON)
            .expect_code(1)
            .expect_text("is already running as process");
        sandbox.stop();
        assert!(!sandbox.pidfile().exists() && !sandbox.socket().exists());
    }
}

/// The daemon restores whole directories, which a logout or a cleaner of temporary files may remove.
#[test]
fn whole_directories_are_restored() {
    for sandbox in sandboxes() {
        // Stopped, the supervisor cannot restore a file before its directory is removed.
        let supervisor = sandbox.supervisor();
        stop(&supervisor);
        for dir in [sandbox.runtime_dir(), sandbox.path("sockets")] {
            fs::remove_dir_all(dir).expect("a directory");
        }
        supervisor.signal(Signal::CONT);
        for path in [sandbox.pidfile(), sandbox.socket(), listener(&sandbox)] {
            comes_back(&sandbox, &path);
        }
        assert_eq!(mode(&sandbox.runtime_dir()), 0o700);
        assert_eq!(mode(&sandbox.path("sockets")), 0o711);
        answer(ask(&listener(&sandbox)).expect("a connection"));
        // Move the directories away.
        for dir in [sandbox.runtime_dir(), sandbox.path("sockets")] {
            fs::rename(&dir, dir.with_extension("old")).expect("a directory");
        }
        for path in [sandbox.pidfile(), sandbox.socket(), listener(&sandbox)] {
            eventually("it is back", SOON, || path.exists());
        }
        sandbox.stop();
    }
}

/// After a restart with an upgrade the supervisor still restores its files, and the new generation serves the
/// restored socket.
#[test]
fn files_are_restored_after_a_restart() {
    let sandbox = sandbox("http");
    let path = listener(&sandbox);
    fs::remove_file(&path).expect("a socket");
    comes_back(&sandbox, &path);
    sandbox.deploy("http-v2");
    sandbox.restart();
    assert!(answer(ask(&path).expect("a connection")).contains("version=2"));
    assert_eq!(files(&sandbox), [(path.display().to_string(), "restored".to_owned())]);
    for path in [path.clone(), sandbox.pidfile(), sandbox.socket()] {
        let old = inode(&path);
        fs::remove_file(&path).expect("a file");
        eventually("another one", SOON, || inode(&path).is_some_and(|new| Some(new) != old));
    }
    eventually("it serves", SOON, || ask(&path).is_ok());
    assert!(answer(ask(&path).expect("a connection")).contains("version=2"));
    sandbox.stop();
}

/// A second start is refused although the pidfile is gone and the stopped supervisor cannot restore it.
#[test]
fn second_start_is_refused_without_the_pidfile() {
    for sandbox in sandboxes() {
        let supervisor = sandbox.supervisor();
        let start = || {
            let mut command = sandbox.command(["start"]);
            unbroken_tests::Child::spawn(&mut command).wait(SOON).expect_code(1)
        };
        for dir in [false, true] {
            stop(&supervisor);
            match dir {
                false => fs::remove_file(sandbox.pidfile()).expect("a file"),
                true => fs::remove_dir_all(sandbox.runtime_dir()).expect("a directory"),
            }
            let expected =
                format!("is already running as process {}, but its pidfile", supervisor.pid());
            start().expect_text(&expected);
            assert!(!sandbox.pidfile().exists());
            supervisor.signal(Signal::CONT);
            comes_back(&sandbox, &sandbox.pidfile());
        }
        assert_eq!(sandbox.status().pid, supervisor.pid());
        sandbox.stop();
    }
}

#[test]
fn files_of_others_stay() {
    for sandbox in sandboxes() {
        for path in [sandbox.pidfile(), sandbox.socket(), listener(&sandbox)] {
            let next = sandbox.path("precious");
            fs::write(&next, "precious").expect("a file");
            fs::rename(&next, &path).expect("a file");
            let expected =
                format!("{} was replaced by another file; remove that file", path.display());
            eventually("a log line", SOON, || sandbox.log().contains(&expected));
            if path != sandbox.socket() && path != sandbox.pidfile() {
                assert!(
                    files(&sandbox).contains(&(path.display().to_string(), "replaced".to_owned()))
                );
            }
            assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
            fs::remove_file(&path).expect("a file");
            comes_back(&sandbox, &path);
        }
        let foreign = sandbox.socket();
        fs::remove_file(&foreign).expect("a file");
        comes_back(&sandbox, &foreign);
        let supervisor = sandbox.supervisor();
        fs::write(sandbox.path("precious"), "precious").expect("a file");
        fs::rename(sandbox.path("precious"), &foreign).expect("a file");
        supervisor.signal(Signal::TERM);
        assert!(supervisor.wait_gone(SOON));
        assert_eq!(fs::read_to_string(&foreign).expect("a file"), "precious");
    }
}

/// A supervisor that runs as root does not restore a socket through a link of another user.
#[test]
fn nothing_is_restored_in_a_directory_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        skip("needs root");
        return;
    }
    let sandbox = sandbox("http");
    let (path, elsewhere) = (listener(&sandbox), sandbox.path("elsewhere"));
    fs::create_dir(&elsewhere).expect("a directory");
    let link = sandbox.path("link");
    symlink(&elsewhere, &link).expect("a link");
    std::os::unix::fs::lchown(&link, Some(65_534), Some(65_534)).expect("an owner");
    // In one step, so the supervisor cannot restore the socket in between.
    renameat_with(CWD, &link, CWD, sandbox.path("sockets"), RenameFlags::EXCHANGE)
        .expect("exchanged");
    eventually("a log line", SOON, || sandbox.log().contains("user 65534 can change"));
    assert!(!elsewhere.join("app.sock").exists());
    fs::remove_file(sandbox.path("sockets")).expect("a link");
    eventually("it is back", SOON, || path.exists());
    sandbox.stop();
}

/// The supervisor is not woken by other files that are created in the watched directories.
#[test]
fn other_files_do_not_wake_the_supervisor() {
    let sandbox = sandbox("http");
    let supervisor = sandbox.supervisor();
    let switches = || {
        let status =
            fs::read_to_string(format!("/proc/{}/status", supervisor.pid())).expect("proc");
        let line = status.lines().find(|it| it.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned)
    };
    // Another event may wake the supervisor, but not every time.
    eventually("it sleeps on", SOON, || {
        let before = switches();
        for at in 0..100 {
            fs::write(sandbox.path(&format!("sockets/{at}")), "").expect("a file");
            fs::write(sandbox.runtime_dir().join(at.to_string()), "").expect("a file");
        }
        switches() == before
    });
    sandbox.stop();
}
