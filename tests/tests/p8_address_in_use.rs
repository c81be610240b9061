//! P8: the error for an address in use names the process that listens there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Socket, Type};
use unbroken_tests::{Sandbox, skip};

/// Asserts that a start at `addr` fails and names this process.
#[track_caller]
fn assert_names_us(addr: &str) {
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", addr);
    let own = format!("process {} (", std::process::id());
    let out = sandbox.verb(["start"]).expect_code(1);
    assert!(out.stderr.contains(&own) && out.stderr.contains("listens there"), "{addr}\n{out}");
    assert!(out.stderr.contains(addr), "{out}");
}

#[test]
fn holder_of_an_ipv4_address_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_names_us(&taken.local_addr().unwrap().to_string());
}

#[test]
fn holder_of_an_ipv6_address_is_named() {
    let taken = TcpListener::bind("[::1]:0").unwrap();
    assert_names_us(&taken.local_addr().unwrap().to_string());
}

#[test]
fn holder_of_an_overlapping_address_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_names_us(&format!("0.0.0.0:{}", taken.local_addr().unwrap().port()));

    // [::] without v6only includes 0.0.0.0.
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    both.set_only_v6(false).unwrap();
    both.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    both.listen(1).unwrap();
    let port = both.local_addr().unwrap().as_socket().unwrap().port();
    assert_names_us(&format!("0.0.0.0:{port}"));
    assert_names_us(&format!("127.0.0.1:{port}"));
    assert_names_us(&format!("[::]:{port}"));
}

#[test]
fn holder_of_a_unix_socket_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken.sock");
    let _taken = UnixListener::bind(&path).unwrap();
    assert_names_us(&format!("unix:{}", path.display()));
}

#[test]
fn old_generation_continues_when_a_restart_cannot_bind() {
    let sandbox = Sandbox::new("http");
    sandbox.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = sandbox.path("more.toml");
    std::fs::write(&file, "[listen]\n").unwrap();
    sandbox.stop();
    let mut sandbox = sandbox;
    sandbox.set("DAEMON_CONFIG", file.display().to_string());
    sandbox.start();
    let text = format!("[listen]\nmore = \"{}\"\n", taken.local_addr().unwrap());
    std::fs::write(&file, text).unwrap();
    let reason = sandbox.restart_aborts().reason.unwrap();
    assert!(reason.contains(&format!("process {} (", std::process::id())), "{reason}");
    assert_eq!(sandbox.get("/").unwrap().status, 200);
    sandbox.stop();
}

#[test]
fn holder_of_another_user_is_not_named() {
    if !rustix::process::geteuid().is_root() {
        skip("another user can be had by root alone");
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LISTEN_HTTP", taken.local_addr().unwrap().to_string());
    let script = "chown -R 65534:65534 . && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1\" start";
    let out = sandbox.shell(script).expect_code(1);
    assert!(out.stderr.contains("a process of another user or namespace listens there"), "{out}");
}
