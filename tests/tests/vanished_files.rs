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
use unbroken_tests::{Bed, Process, Signal, eventually, skip};

const SOON: Duration = Duration::from_secs(60);

/// Starts two daemons, supervised and solo, each with a unix listener in a directory of its own.
fn beds() -> [Bed; 2] {
    ["http", "solo-http"].map(bed)
}

fn bed(fixture: &str) -> Bed {
    let mut bed = Bed::new(fixture);
    fs::create_dir(bed.path("sockets")).expect("a directory");
    fs::set_permissions(bed.path("sockets"), fs::Permissions::from_mode(0o711)).expect("a mode");
    let addr = format!("unix:{}", listener(&bed).display());
    bed.set("DAEMON_LISTEN_HTTP", addr).set("DAEMON_LISTEN_HTTP__MODE", "0620");
    bed.start();
    bed
}

fn listener(bed: &Bed) -> PathBuf {
    bed.path("sockets/app.sock")
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
fn comes_back(bed: &Bed, path: &Path) {
    eventually(&format!("{} is back", path.display()), SOON, || path.exists());
    eventually("it is said", SOON, || {
        bed.log().contains(&format!("{} was missing and was restored", path.display()))
    });
}

fn files(bed: &Bed) -> Vec<(String, String)> {
    let output = bed.verb(["status", "--json"]).expect_code(0);
    let status: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let text = |it: &serde_json::Value, key: &str| it[key].as_str().expect("text").to_owned();
    let files = status["files"].as_array().expect("files");
    files.iter().map(|it| (text(it, "path"), text(it, "state"))).collect()
}

#[test]
fn removed_listener_is_restored() {
    for bed in beds() {
        let path = listener(&bed);
        answer(ask(&path).expect("a connection"));
        assert_eq!(files(&bed), []);
        fs::remove_file(&path).expect("a socket");
        comes_back(&bed, &path);
        answer(ask(&path).expect("a connection"));
        assert_eq!(mode(&path), 0o620);
        assert_eq!(files(&bed), [(path.display().to_string(), "restored".to_owned())]);
        bed.verb(["status"]).expect_code(0).expect_text("was missing and was restored at");
        // Remove it again, by a rename.
        fs::rename(&path, bed.path("elsewhere")).expect("a socket");
        eventually("it is back", SOON, || path.exists());
        answer(ask(&path).expect("a connection"));
        bed.stop();
        assert!(!path.exists(), "it goes with the daemon");
    }
}

/// Clients in the accept queue of the removed socket are served, as are those that connect to the new one.
#[test]
fn clients_in_the_queue_are_served() {
    for bed in beds().into_iter().take(1) {
        let path = listener(&bed);
        let worker = bed.worker();
        stop(&worker);
        let queued: Vec<_> = (0..9).map(|_| ask(&path).expect("a connection")).collect();
        fs::remove_file(&path).expect("a socket");
        comes_back(&bed, &path);
        let more: Vec<_> = (0..9).map(|_| ask(&path).expect("a connection")).collect();
        worker.signal(Signal::CONT);
        queued.into_iter().chain(more).for_each(|stream| _ = answer(stream));
        bed.stop();
    }
}

/// Every client that could connect is served, although the socket is removed repeatedly under load.
#[test]
fn connected_clients_are_served_under_load() {
    for bed in beds() {
        let path = listener(&bed);
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
        bed.stop();
    }
}

#[test]
fn removed_blocking_listener_is_restored() {
    let mut bed = Bed::new("sync");
    let path = bed.path("echo.sock");
    bed.set("DAEMON_LISTEN_ECHO", format!("unix:{}", path.display()));
    bed.start();
    for _ in 0..3 {
        let waiting = UnixStream::connect(&path).expect("a connection");
        fs::remove_file(&path).expect("a socket");
        comes_back(&bed, &path);
        for mut stream in [waiting, UnixStream::connect(&path).expect("a connection")] {
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            stream.write_all(b"hello\n").expect("a line");
            let mut line = [0; 8];
            stream.read_exact(&mut line).expect("an answer");
            assert_eq!(&line, b"1 hello\n");
        }
        fs::write(bed.log_file(), "").expect("the log");
    }
    bed.stop();
}

#[test]
fn pidfile_and_control_socket_are_restored() {
    for bed in beds() {
        let pid = fs::read_to_string(bed.pidfile()).expect("the pidfile");
        let written = fs::metadata(bed.pidfile()).expect("a file").modified().expect("a time");
        for path in [bed.pidfile(), bed.socket()] {
            fs::remove_file(&path).expect("a file");
            comes_back(&bed, &path);
        }
        assert_eq!(fs::read_to_string(bed.pidfile()).expect("the pidfile"), pid);
        assert_eq!(fs::metadata(bed.pidfile()).expect("a file").modified().ok(), Some(written));
        assert_eq!(mode(&bed.socket()), 0o600);
        let mut start = bed.command(["start"]);
        unbroken_tests::Child::spawn(&mut start)
            .wait(SOON)
            .expect_code(1)
            .expect_text("is already running as process");
        bed.stop();
        assert!(!bed.pidfile().exists() && !bed.socket().exists());
    }
}

/// The daemon restores whole directories, which a logout or a cleaner of temporary files may remove.
#[test]
fn whole_directories_are_restored() {
    for bed in beds() {
        // Stopped, the supervisor cannot restore a file before its directory is removed.
        let supervisor = bed.supervisor();
        stop(&supervisor);
        for dir in [bed.runtime_dir(), bed.path("sockets")] {
            fs::remove_dir_all(dir).expect("a directory");
        }
        supervisor.signal(Signal::CONT);
        for path in [bed.pidfile(), bed.socket(), listener(&bed)] {
            comes_back(&bed, &path);
        }
        assert_eq!(mode(&bed.runtime_dir()), 0o700);
        assert_eq!(mode(&bed.path("sockets")), 0o711);
        answer(ask(&listener(&bed)).expect("a connection"));
        // Move the directories away.
        for dir in [bed.runtime_dir(), bed.path("sockets")] {
            fs::rename(&dir, dir.with_extension("old")).expect("a directory");
        }
        for path in [bed.pidfile(), bed.socket(), listener(&bed)] {
            eventually("it is back", SOON, || path.exists());
        }
        bed.stop();
    }
}

/// After a restart with an upgrade the supervisor still restores its files, and the new generation serves the
/// restored socket.
#[test]
fn files_are_restored_after_a_restart() {
    let bed = bed("http");
    let path = listener(&bed);
    fs::remove_file(&path).expect("a socket");
    comes_back(&bed, &path);
    bed.deploy("http-v2");
    bed.restart();
    assert!(answer(ask(&path).expect("a connection")).contains("version=2"));
    assert_eq!(files(&bed), [(path.display().to_string(), "restored".to_owned())]);
    for path in [path.clone(), bed.pidfile(), bed.socket()] {
        let old = inode(&path);
        fs::remove_file(&path).expect("a file");
        eventually("another one", SOON, || inode(&path).is_some_and(|new| Some(new) != old));
    }
    eventually("it serves", SOON, || ask(&path).is_ok());
    assert!(answer(ask(&path).expect("a connection")).contains("version=2"));
    bed.stop();
}

/// A second start is refused although the pidfile is gone and the stopped supervisor cannot restore it.
#[test]
fn second_start_is_refused_without_the_pidfile() {
    for bed in beds() {
        let supervisor = bed.supervisor();
        let start = || {
            let mut command = bed.command(["start"]);
            unbroken_tests::Child::spawn(&mut command).wait(SOON).expect_code(1)
        };
        for dir in [false, true] {
            stop(&supervisor);
            match dir {
                false => fs::remove_file(bed.pidfile()).expect("a file"),
                true => fs::remove_dir_all(bed.runtime_dir()).expect("a directory"),
            }
            let said =
                format!("is already running as process {}, but its pidfile", supervisor.pid());
            start().expect_text(&said);
            assert!(!bed.pidfile().exists());
            supervisor.signal(Signal::CONT);
            comes_back(&bed, &bed.pidfile());
        }
        assert_eq!(bed.status().pid, supervisor.pid());
        bed.stop();
    }
}

#[test]
fn files_of_others_stay() {
    for bed in beds() {
        for path in [bed.pidfile(), bed.socket(), listener(&bed)] {
            let next = bed.path("precious");
            fs::write(&next, "precious").expect("a file");
            fs::rename(&next, &path).expect("a file");
            let said = format!("{} was replaced by another file; remove that file", path.display());
            eventually("it is said", SOON, || bed.log().contains(&said));
            if path != bed.socket() && path != bed.pidfile() {
                assert!(files(&bed).contains(&(path.display().to_string(), "replaced".to_owned())));
            }
            assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
            fs::remove_file(&path).expect("a file");
            comes_back(&bed, &path);
        }
        let foreign = bed.socket();
        fs::remove_file(&foreign).expect("a file");
        comes_back(&bed, &foreign);
        let supervisor = bed.supervisor();
        fs::write(bed.path("precious"), "precious").expect("a file");
        fs::rename(bed.path("precious"), &foreign).expect("a file");
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
    let bed = bed("http");
    let (path, elsewhere) = (listener(&bed), bed.path("elsewhere"));
    fs::create_dir(&elsewhere).expect("a directory");
    let link = bed.path("link");
    symlink(&elsewhere, &link).expect("a link");
    std::os::unix::fs::lchown(&link, Some(65_534), Some(65_534)).expect("an owner");
    // In one step, so the supervisor cannot restore the socket in between.
    renameat_with(CWD, &link, CWD, bed.path("sockets"), RenameFlags::EXCHANGE).expect("exchanged");
    eventually("it is said", SOON, || bed.log().contains("user 65534 can change"));
    assert!(!elsewhere.join("app.sock").exists());
    fs::remove_file(bed.path("sockets")).expect("a link");
    eventually("it is back", SOON, || path.exists());
    bed.stop();
}

/// The supervisor is not woken by other files that are created in the watched directories.
#[test]
fn other_files_do_not_wake_the_supervisor() {
    let bed = bed("http");
    let supervisor = bed.supervisor();
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
            fs::write(bed.path(&format!("sockets/{at}")), "").expect("a file");
            fs::write(bed.runtime_dir().join(at.to_string()), "").expect("a file");
        }
        switches() == before
    });
    bed.stop();
}
