//! Peers that are servers, not libraries. Their new code is a configuration or an application.

use unbroken_tests::{Child, Process, Signal};

use super::peer::{Kind, PATIENCE, Peer, Place, Running, ask, built, version_in};

/// A server in the foreground.
struct Server<P> {
    child: Child,
    product: P,
}

/// The operations that differ between the servers.
trait Product {
    fn deploy(&self, at: &Place, release: u64);
    fn start(&self, at: &Place) -> Child;
    fn restart(&self, at: &Place, child: &Child);
}

impl<P: Product> Peer for Server<P> {
    fn deploy(&mut self, at: &Place, release: u64) {
        self.product.deploy(at, release);
    }

    fn restart(&mut self, at: &Place) {
        self.product.restart(at, &self.child);
    }

    fn root(&self) -> Option<Process> {
        Process::open(self.child.pid())
    }
}

fn start(product: impl Product + 'static) -> Running {
    let place = Place::new();
    product.deploy(&place, 1);
    let child = product.start(&place);
    Running::new(place, Server { child, product })
}

fn missing(program: &str) -> String {
    format!("no {program}; tests/benches/peers/install installs it")
}

/// The path of a program that `install` has unpacked.
fn debian(program: &str) -> String {
    built().join("debian/usr/sbin").join(program).display().to_string()
}

struct Nginx;

pub(crate) const NGINX: Kind = Kind {
    name: "nginx",
    options: "`keepalive_min_timeout 60s`, any number of requests on a connection",
    version: || {
        let output = ask(&debian("nginx"), &["-e", "stderr", "-v"]);
        output.map(|it| version_in(&it)).ok_or_else(|| missing("nginx"))
    },
    start: || start(Nginx),
};

impl Product for Nginx {
    /// Workers and connections as in Debian's configuration. A connection may carry any number of
    /// requests, so only a reload ends it; an idle one is then kept for another request.
    fn deploy(&self, at: &Place, release: u64) {
        let addr = at.addr;
        at.write(
            "nginx.conf",
            &format!(
                r#"daemon off;
pid nginx.pid;
error_log stderr;
worker_processes auto;
events {{ worker_connections 768; }}
http {{
    access_log off;
    client_body_temp_path tmp_body; proxy_temp_path tmp_proxy; fastcgi_temp_path tmp_fastcgi;
    uwsgi_temp_path tmp_uwsgi; scgi_temp_path tmp_scgi;
    keepalive_requests 1000000000;
    keepalive_min_timeout 60s;
    server {{
        listen {addr};
        location / {{
            default_type text/plain;
            return 200 "generation={release} pid=$pid version=1\n";
        }}
    }}
}}
"#
            ),
        );
    }

    fn start(&self, at: &Place) -> Child {
        let dir = at.sandbox.dir().display().to_string();
        at.spawn(&debian("nginx"), &["-e", "stderr", "-p", &dir, "-c", "nginx.conf"])
    }

    fn restart(&self, at: &Place, _: &Child) {
        let dir = at.sandbox.dir().display().to_string();
        let options = ["-e", "stderr", "-p", &dir, "-c", "nginx.conf", "-s", "reload"];
        at.run(&debian("nginx"), &options);
    }
}

struct Haproxy;

pub(crate) const HAPROXY: Kind = Kind {
    name: "HAProxy",
    options: "`-W`, `option idle-close-on-response`",
    version: || {
        let output = ask(&debian("haproxy"), &["-v"]);
        output.map(|it| version_in(&it)).ok_or_else(|| missing("haproxy"))
    },
    start: || start(Haproxy),
};

impl Product for Haproxy {
    fn deploy(&self, at: &Place, release: u64) {
        let addr = at.addr;
        at.write(
            "haproxy.cfg",
            &format!(
                r#"defaults
    mode http
    option idle-close-on-response
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend hello
    bind {addr}
    http-request return status 200 content-type text/plain lf-string "generation={release} pid=%pid version=1\n"
"#
            ),
        );
    }

    fn start(&self, at: &Place) -> Child {
        at.spawn(&debian("haproxy"), &["-W", "-f", "haproxy.cfg"])
    }

    fn restart(&self, _: &Place, child: &Child) {
        child.process().signal(Signal::USR2);
    }
}

struct Gunicorn;

pub(crate) const GUNICORN: Kind = Kind {
    name: "gunicorn",
    options: "2 workers of 4 threads (`gthread`)",
    version: || {
        let output = ask(&gunicorn(), &["--version"]);
        output.map(|it| version_in(&it)).ok_or_else(|| missing("gunicorn"))
    },
    start: || start(Gunicorn),
};

fn gunicorn() -> String {
    built().join("venv/bin/gunicorn").display().to_string()
}

impl Product for Gunicorn {
    fn deploy(&self, at: &Place, release: u64) {
        let text = format!(
            r#"import os

BODY = f"generation={release} pid={{os.getpid()}} version=1\n".encode()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]
"#
        );
        at.write("app.next", &text);
        std::fs::rename(at.sandbox.path("app.next"), at.sandbox.path("app.py"))
            .expect("the app replaced");
    }

    /// Starts it with threads, because its default worker closes a connection after each response.
    fn start(&self, at: &Place) -> Child {
        let addr = at.addr.to_string();
        let workers = ["--workers", "2", "--worker-class", "gthread", "--threads", "4"];
        let mut command = at.sandbox.command_of(gunicorn(), workers);
        // Python compares the source of a compiled file by a time in seconds, which is too coarse here.
        command.args(["--bind", &addr, "app:app"]).env("PYTHONDONTWRITEBYTECODE", "1");
        let child = Child::spawn(&mut command);
        child.wait_for_stderr("Listening at", PATIENCE);
        child
    }

    fn restart(&self, _: &Place, child: &Child) {
        child.process().signal(Signal::HUP);
    }
}
