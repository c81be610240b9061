//! Listeners over restarts, and the ways in which a bind fails.

#![allow(clippy::expect_used)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Bed, Load, eventually};

const SOON: Duration = Duration::from_secs(20);

/// The port the kernel chose is the daemon's for life.
#[test]
fn port_zero_stays_the_same() {
    let bed = Bed::new("http");
    let target = bed.start().target("http");
    assert_ne!(target.tcp().port(), 0);
    for _ in 0..3 {
        bed.restart();
        assert_eq!(bed.target("http"), target);
    }
    bed.worker().kill();
    bed.wait_serving();
    assert_eq!(bed.target("http"), target);
    bed.stop();
}

/// A new generation may declare more listeners, and fewer.
#[test]
fn one_more_and_one_less() {
    let bed = Bed::new("http");
    let status = bed.start();
    assert_eq!(status.listeners.len(), 1);
    let http = status.target("http");
    bed.deploy("http-v3-listeners");
    bed.restart();
    let status = bed.status();
    assert_eq!(status.target("http"), http);
    let admin = status.target("admin");
    for target in [&http, &admin] {
        let response = Connection::open(target).and_then(|mut it| it.get("/")).expect("a response");
        assert_eq!(response.number("version"), Some(3));
    }
    let load = Load::on(admin.clone()).new_connections(4).requests(200).run();
    load.assert_nothing_failed();
    bed.deploy("http");
    bed.restart();
    eventually("the removed listener is closed", SOON, || !admin.accepts());
    assert_eq!(bed.status().listeners.len(), 1);
    assert_eq!(bed.target("http"), http);
    bed.stop();
}

/// A listener that cannot be bound aborts the restart, and says which and why.
#[test]
fn one_more_that_is_taken() {
    let mut bed = Bed::new("http-v3-listeners");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = taken.local_addr().expect("an address").to_string();
    let file = bed.path("app.toml");
    fs::write(&file, "").expect("a file");
    bed.set("DAEMON_CONFIG", file.display().to_string());
    let status = bed.start();
    fs::write(&file, format!("[listen]\nadmin = \"{addr}\"\n")).expect("a file");
    let reason = bed.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("admin") && reason.contains(&addr), "{reason}");
    assert!(reason.contains(&held_by_this_test()), "{reason}");
    assert_eq!(bed.status().serving().pid, status.serving().pid);
    drop(taken);
    bed.restart();
    assert_eq!(bed.target("admin").to_string(), addr);
    bed.stop();
}

/// What is said of who holds an address.
fn held_by_this_test() -> String {
    let name = fs::read_to_string("/proc/self/comm").expect("its name");
    format!("process {} ({}) listens there", std::process::id(), name.trim_end())
}

#[test]
fn address_in_use() {
    let mut bed = Bed::new("http");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = taken.local_addr().expect("an address").to_string();
    bed.set("DAEMON_LISTEN_HTTP", addr.clone());
    let output = bed.verb(["start"]).expect_code(1);
    let output = output.expect_text("http").expect_text(&addr).expect_text("in use");
    output.expect_text(&held_by_this_test());
    bed.assert_nothing_left();
}

#[test]
fn an_address_of_another_host() {
    let mut bed = Bed::new("http");
    bed.set("DAEMON_LISTEN_HTTP", "192.0.2.1:80");
    bed.verb(["start"]).expect_code(1).expect_text("http").expect_text("192.0.2.1:80");
    bed.assert_nothing_left();
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn ipv6_only() {
    if !has_ipv6() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    for (v6only, both) in [(None, false), (Some("true"), false), (Some("false"), true)] {
        let mut bed = Bed::new("http");
        bed.set("DAEMON_LISTEN_HTTP", "[::]:0");
        if let Some(v6only) = v6only {
            bed.set("DAEMON_LISTEN_HTTP__V6ONLY", v6only);
        }
        let port = bed.start().target("http").tcp().port();
        let on = |host: std::net::IpAddr| Target::Tcp(SocketAddr::new(host, port)).accepts();
        assert!(on(std::net::Ipv6Addr::LOCALHOST.into()));
        assert_eq!(on(Ipv4Addr::LOCALHOST.into()), both, "v6only = {v6only:?}");
        bed.verb(["stop"]).expect_code(0);
    }
}

fn on_unix(bed: &mut Bed) -> std::path::PathBuf {
    let path = bed.path("http.sock");
    bed.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    path
}

/// The same inode from start to stop: no client ever finds no socket.
#[test]
fn a_unix_socket_s_life() {
    let mut bed = Bed::new("http");
    let path = on_unix(&mut bed);
    bed.set("DAEMON_LISTEN_HTTP__MODE", "0620");
    bed.start();
    let meta = path.metadata().expect("a socket");
    assert_eq!(meta.permissions().mode() & 0o777, 0o620);
    for _ in 0..2 {
        bed.restart();
        assert_eq!(path.metadata().expect("a socket").ino(), meta.ino());
    }
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(3));
    bed.stop();
    assert!(!path.exists());
}

#[test]
fn a_dead_unix_socket_is_replaced() {
    let mut bed = Bed::new("http");
    let path = on_unix(&mut bed);
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    bed.start();
    bed.kill_all();
    assert!(path.exists());
    bed.start();
    assert_eq!(bed.get("/").expect("a response").status, 200);
    bed.stop();
}

#[test]
fn a_live_unix_socket_is_in_use() {
    let mut bed = Bed::new("http");
    let path = on_unix(&mut bed);
    let _taken = UnixListener::bind(&path).expect("a socket");
    let output = bed.verb(["start"]).expect_code(1);
    let output = output.expect_text("http").expect_text("http.sock").expect_text("in use");
    output.expect_text(&held_by_this_test());
    assert!(path.exists());
    assert!(bed.processes().is_empty());
}

#[test]
fn another_file_is_not_ours_to_remove() {
    let mut bed = Bed::new("http");
    let path = on_unix(&mut bed);
    fs::write(&path, "precious").expect("a file");
    bed.verb(["start"]).expect_code(1).expect_text("http.sock");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    assert!(bed.processes().is_empty());
}

/// Somebody else's socket in our place is theirs.
#[test]
fn only_its_own_inode_is_unlinked() {
    let mut bed = Bed::new("http");
    let path = on_unix(&mut bed);
    bed.start();
    // At once, as ours would come back.
    let other = bed.path("other.sock");
    let theirs = UnixListener::bind(&other).expect("a socket");
    fs::rename(&other, &path).expect("a socket");
    bed.verb(["stop"]).expect_code(0);
    assert!(path.exists());
    drop(theirs);
}

/// From a unix socket to a port and back, by configuration and restart.
#[test]
fn moves_to_another_address() {
    let mut bed = Bed::new("http");
    let file = bed.path("app.toml");
    fs::write(&file, "").expect("a file");
    bed.set("DAEMON_CONFIG", file.display().to_string());
    let old = bed.start().target("http");
    let path = bed.path("moved.sock");
    fs::write(&file, format!("[listen]\nhttp = \"unix:{}\"\n", path.display())).expect("a file");
    bed.restart();
    assert_eq!(bed.target("http"), Target::Unix(path.clone()));
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(2));
    eventually("the old address is closed", SOON, || !old.accepts());
    fs::write(&file, "").expect("a file");
    bed.restart();
    eventually("the socket is removed", SOON, || !path.exists());
    assert_eq!(bed.get("/").expect("a response").number("generation"), Some(3));
    bed.stop();
}

/// A bed whose configuration is a file with these listeners.
fn configured(fixture: &str) -> (Bed, std::path::PathBuf) {
    let mut bed = Bed::new(fixture);
    let file = bed.path("app.toml");
    fs::write(&file, "").expect("a file");
    bed.set("DAEMON_CONFIG", file.display().to_string());
    (bed, file)
}

/// What a newcomer declares otherwise of a shared socket is undone with its restart.
#[test]
fn an_aborted_restart_leaves_the_socket_as_it_was() {
    let (bed, file) = configured("http");
    let path = bed.path("http.sock");
    let declare = |mode: &str| {
        let text =
            format!("[listen.http]\naddr = \"unix:{}\"\nmode = \"{mode}\"\n", path.display());
        fs::write(&file, text).expect("a file");
    };
    let mode = || path.metadata().expect("a socket").permissions().mode() & 0o777;
    declare("0600");
    bed.start();
    assert_eq!(mode(), 0o600);
    declare("0666");
    bed.deploy("fails-at-start");
    bed.restart_aborts();
    assert_eq!(mode(), 0o600);
    bed.deploy("http");
    bed.restart();
    eventually("the new mode", SOON, || mode() == 0o666);
    bed.stop();
}

/// Of several new listeners all are bound, or none stays.
#[test]
fn what_was_bound_beside_a_failure_is_removed() {
    let (bed, file) = configured("http-v3-listeners");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let path = bed.path("admin.sock");
    bed.start();
    fs::write(
        &file,
        format!(
            "[listen]\nadmin = \"unix:{}\"\nhttp = \"{}\"\n",
            path.display(),
            taken.local_addr().expect("an address")
        ),
    )
    .expect("a file");
    bed.restart_aborts();
    assert!(!path.exists(), "after a restart");
    bed.verb(["stop"]).expect_code(0);
    bed.verb(["start"]).expect_code(1);
    assert!(!path.exists(), "after a start");
    bed.assert_nothing_left();
}

/// Somebody else's lock on a socket's directory does not keep the supervisor from its work.
#[test]
fn a_locked_directory_stops_nobody() {
    let (bed, file) = configured("http");
    bed.start();
    let dir = bed.path("sockets");
    fs::create_dir(&dir).expect("a directory");
    let lock = fs::File::open(&dir).expect("the directory");
    lock.lock().expect("a lock");
    fs::write(&file, format!("[listen]\nhttp = \"unix:{}/http.sock\"\n", dir.display()))
        .expect("a file");
    let reason = bed.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("`http`") && reason.contains("lock"), "{reason}");
    drop(lock);
    bed.restart();
    bed.stop();
}
