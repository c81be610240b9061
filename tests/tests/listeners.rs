//! Listeners across restarts, and binds that fail.

#![allow(clippy::expect_used)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use unbroken_tests::http::{Connection, Target};
use unbroken_tests::{Load, Sandbox, eventually};

const SOON: Duration = Duration::from_secs(20);

/// With port 0 the daemon keeps the port that the kernel chose.
#[test]
fn port_zero_keeps_its_port() {
    let sandbox = Sandbox::new("http");
    let target = sandbox.start().target("http");
    assert_ne!(target.tcp().port(), 0);
    for _ in 0..3 {
        sandbox.restart();
        assert_eq!(sandbox.target("http"), target);
    }
    sandbox.worker().kill();
    sandbox.wait_serving();
    assert_eq!(sandbox.target("http"), target);
    sandbox.stop();
}

/// A new generation may declare more or fewer listeners.
#[test]
fn restart_adds_and_removes_a_listener() {
    let sandbox = Sandbox::new("http");
    let status = sandbox.start();
    assert_eq!(status.listeners.len(), 1);
    let http = status.target("http");
    sandbox.deploy("http-v3-listeners");
    sandbox.restart();
    let status = sandbox.status();
    assert_eq!(status.target("http"), http);
    let admin = status.target("admin");
    for target in [&http, &admin] {
        let response = Connection::open(target).and_then(|mut it| it.get("/")).expect("a response");
        assert_eq!(response.number("version"), Some(3));
    }
    let load = Load::on(admin.clone()).new_connections(4).requests(200).run();
    load.assert_nothing_failed();
    sandbox.deploy("http");
    sandbox.restart();
    eventually("the removed listener is closed", SOON, || !admin.accepts());
    assert_eq!(sandbox.status().listeners.len(), 1);
    assert_eq!(sandbox.target("http"), http);
    sandbox.stop();
}

/// A new listener that cannot be bound aborts the restart. The reason names the listener, the address and the
/// process that holds it.
#[test]
fn taken_address_aborts_a_restart() {
    let mut sandbox = Sandbox::new("http-v3-listeners");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = taken.local_addr().expect("an address").to_string();
    let file = sandbox.path("app.toml");
    fs::write(&file, "").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let status = sandbox.start();
    fs::write(&file, format!("[listen]\nadmin = \"{addr}\"\n")).expect("a file");
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("admin") && reason.contains(&addr), "{reason}");
    assert!(reason.contains(&held_by_this_test()), "{reason}");
    assert_eq!(sandbox.status().serving().pid, status.serving().pid);
    drop(taken);
    sandbox.restart();
    assert_eq!(sandbox.target("admin").to_string(), addr);
    sandbox.stop();
}

/// The part of an error that names this process as the holder of an address.
fn held_by_this_test() -> String {
    let name = fs::read_to_string("/proc/self/comm").expect("its name");
    format!("process {} ({}) listens there", std::process::id(), name.trim_end())
}

#[test]
fn taken_address_fails_the_start() {
    let mut sandbox = Sandbox::new("http");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = taken.local_addr().expect("an address").to_string();
    sandbox.set("DAEMON_LISTEN_HTTP", addr.clone());
    let output = sandbox.verb(["start"]).expect_code(1);
    let output = output.expect_text("http").expect_text(&addr).expect_text("in use");
    output.expect_text(&held_by_this_test());
    sandbox.assert_nothing_left();
}

#[test]
fn address_of_another_host_fails_the_start() {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", "192.0.2.1:80");
    sandbox.verb(["start"]).expect_code(1).expect_text("http").expect_text("192.0.2.1:80");
    sandbox.assert_nothing_left();
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn v6only_decides_about_ipv4() {
    if !has_ipv6() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    for (v6only, both) in [(None, false), (Some("true"), false), (Some("false"), true)] {
        let mut sandbox = Sandbox::new("http");
        sandbox.set("DAEMON_LISTEN_HTTP", "[::]:0");
        if let Some(v6only) = v6only {
            sandbox.set("DAEMON_LISTEN_HTTP__V6ONLY", v6only);
        }
        let port = sandbox.start().target("http").tcp().port();
        let on = |host: std::net::IpAddr| Target::Tcp(SocketAddr::new(host, port)).accepts();
        assert!(on(std::net::Ipv6Addr::LOCALHOST.into()));
        assert_eq!(on(Ipv4Addr::LOCALHOST.into()), both, "v6only = {v6only:?}");
        sandbox.verb(["stop"]).expect_code(0);
    }
}

fn on_unix(sandbox: &mut Sandbox) -> std::path::PathBuf {
    let path = sandbox.path("http.sock");
    sandbox.set("DAEMON_LISTEN_HTTP", format!("unix:{}", path.display()));
    path
}

/// A unix socket keeps its inode from start to stop, so a client always finds it.
#[test]
fn unix_socket_keeps_its_inode() {
    let mut sandbox = Sandbox::new("http");
    let path = on_unix(&mut sandbox);
    sandbox.set("DAEMON_LISTEN_HTTP__MODE", "0620");
    sandbox.start();
    let meta = path.metadata().expect("a socket");
    assert_eq!(meta.permissions().mode() & 0o777, 0o620);
    for _ in 0..2 {
        sandbox.restart();
        assert_eq!(path.metadata().expect("a socket").ino(), meta.ino());
    }
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(3));
    sandbox.stop();
    assert!(!path.exists());
}

#[test]
fn dead_unix_socket_is_replaced() {
    let mut sandbox = Sandbox::new("http");
    let path = on_unix(&mut sandbox);
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    sandbox.start();
    sandbox.kill_all();
    assert!(path.exists());
    sandbox.start();
    assert_eq!(sandbox.get("/").expect("a response").status, 200);
    sandbox.stop();
}

#[test]
fn live_unix_socket_is_in_use() {
    let mut sandbox = Sandbox::new("http");
    let path = on_unix(&mut sandbox);
    let _taken = UnixListener::bind(&path).expect("a socket");
    let output = sandbox.verb(["start"]).expect_code(1);
    let output = output.expect_text("http").expect_text("http.sock").expect_text("in use");
    output.expect_text(&held_by_this_test());
    assert!(path.exists());
    assert!(sandbox.processes().is_empty());
}

#[test]
fn other_file_at_the_path_is_not_removed() {
    let mut sandbox = Sandbox::new("http");
    let path = on_unix(&mut sandbox);
    fs::write(&path, "precious").expect("a file");
    sandbox.verb(["start"]).expect_code(1).expect_text("http.sock");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    assert!(sandbox.processes().is_empty());
}

/// A socket that another process put at the path of the daemon's is not removed at the stop.
#[test]
fn only_its_own_inode_is_unlinked() {
    let mut sandbox = Sandbox::new("http");
    let path = on_unix(&mut sandbox);
    sandbox.start();
    // By rename: if the path were empty for a moment, the daemon would restore its socket.
    let other = sandbox.path("other.sock");
    let theirs = UnixListener::bind(&other).expect("a socket");
    fs::rename(&other, &path).expect("a socket");
    sandbox.verb(["stop"]).expect_code(0);
    assert!(path.exists());
    drop(theirs);
}

/// A restart moves a listener from a port to a unix socket and back.
#[test]
fn listener_moves_to_another_address() {
    let mut sandbox = Sandbox::new("http");
    let file = sandbox.path("app.toml");
    fs::write(&file, "").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    let old = sandbox.start().target("http");
    let path = sandbox.path("moved.sock");
    fs::write(&file, format!("[listen]\nhttp = \"unix:{}\"\n", path.display())).expect("a file");
    sandbox.restart();
    assert_eq!(sandbox.target("http"), Target::Unix(path.clone()));
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(2));
    eventually("the old address is closed", SOON, || !old.accepts());
    fs::write(&file, "").expect("a file");
    sandbox.restart();
    eventually("the socket is removed", SOON, || !path.exists());
    assert_eq!(sandbox.get("/").expect("a response").number("generation"), Some(3));
    sandbox.stop();
}

/// Creates a sandbox with an empty configuration file.
fn configured(fixture: &str) -> (Sandbox, std::path::PathBuf) {
    let mut sandbox = Sandbox::new(fixture);
    let file = sandbox.path("app.toml");
    fs::write(&file, "").expect("a file");
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    (sandbox, file)
}

/// An aborted restart leaves the mode of a shared socket as it was.
#[test]
fn aborted_restart_leaves_the_socket_as_it_was() {
    let (sandbox, file) = configured("http");
    let path = sandbox.path("http.sock");
    let declare = |mode: &str| {
        let text =
            format!("[listen.http]\naddr = \"unix:{}\"\nmode = \"{mode}\"\n", path.display());
        fs::write(&file, text).expect("a file");
    };
    let mode = || path.metadata().expect("a socket").permissions().mode() & 0o777;
    declare("0600");
    sandbox.start();
    assert_eq!(mode(), 0o600);
    declare("0666");
    sandbox.deploy("fails-at-start");
    sandbox.restart_aborts();
    assert_eq!(mode(), 0o600);
    sandbox.deploy("http");
    sandbox.restart();
    eventually("the new mode", SOON, || mode() == 0o666);
    sandbox.stop();
}

/// If one of several new listeners cannot be bound, those already bound are removed.
#[test]
fn failed_bind_removes_the_other_new_listeners() {
    let (sandbox, file) = configured("http-v3-listeners");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let path = sandbox.path("admin.sock");
    sandbox.start();
    fs::write(
        &file,
        format!(
            "[listen]\nadmin = \"unix:{}\"\nhttp = \"{}\"\n",
            path.display(),
            taken.local_addr().expect("an address")
        ),
    )
    .expect("a file");
    sandbox.restart_aborts();
    assert!(!path.exists(), "after a restart");
    sandbox.verb(["stop"]).expect_code(0);
    sandbox.verb(["start"]).expect_code(1);
    assert!(!path.exists(), "after a start");
    sandbox.assert_nothing_left();
}

/// While another process locks the directory of a socket, a restart that binds there is aborted and does not
/// block the supervisor.
#[test]
fn locked_directory_does_not_block_the_supervisor() {
    let (sandbox, file) = configured("http");
    sandbox.start();
    let dir = sandbox.path("sockets");
    fs::create_dir(&dir).expect("a directory");
    let lock = fs::File::open(&dir).expect("the directory");
    lock.lock().expect("a lock");
    fs::write(&file, format!("[listen]\nhttp = \"unix:{}/http.sock\"\n", dir.display()))
        .expect("a file");
    let reason = sandbox.restart_aborts().reason.expect("a reason");
    assert!(reason.contains("`http`") && reason.contains("lock"), "{reason}");
    drop(lock);
    sandbox.restart();
    sandbox.stop();
}
