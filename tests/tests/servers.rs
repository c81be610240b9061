//! The examples with other servers, `actix` and `hyper-tls`: no request fails over restarts, and a stop drains.

#![allow(clippy::expect_used)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use unbroken_tests::http::Target;
use unbroken_tests::{Child, Load, Sandbox};

const SOON: Duration = Duration::from_secs(30);

const RESTARTS: u64 = 5;

/// The greeting of both examples; deployments change its last letter.
const GREETING: &str = "hello from";

/// Creates a sandbox with an example as its image.
fn sandbox(listener: &str, program: &Path, window: &str) -> Sandbox {
    let mut sandbox = Sandbox::empty();
    sandbox.set("DAEMON_NAME", "app");
    sandbox.set("DAEMON_CONFIRM_WINDOW", window);
    sandbox.set("DAEMON_DRAIN_TIMEOUT", "20s");
    sandbox.set(&format!("DAEMON_LISTEN_{listener}"), "127.0.0.1:0");
    sandbox.deploy_changed(program, "");
    sandbox
}

/// Restarts five times under load, to other builds, and then stops. Checks that no request failed. `target` is
/// where the clients connect to.
#[track_caller]
fn nothing_is_lost(sandbox: &Sandbox, program: &Path, target: &Target) {
    let kept = Load::on(target.clone()).keep_alive(16).rate(400.0).start();
    let new = Load::on(target.clone()).new_connections(4).rate(400.0).start();
    for generation in 2..2 + RESTARTS {
        new.wait_for(100);
        let (last, changed) = GREETING.split_at(GREETING.len() - 1);
        assert_eq!(changed, "m");
        sandbox.deploy_changed(program, &format!("s/{GREETING}/{last}{generation}/"));
        let report = sandbox.restart();
        let ledger = report.ledger();
        assert_eq!((ledger.forced, ledger.lost, ledger.forced_main), (0, 0, 0), "{report:?}");
        assert!(report.warnings.is_empty(), "{report:?}");
        new.wait_for_generation(generation);
    }
    new.wait_for(100);
    let (kept, new) = (kept.stop(), new.stop());
    kept.assert_nothing_failed();
    new.assert_nothing_failed();
    assert_eq!(new.generations(), (1..=1 + RESTARTS).collect::<Vec<_>>());
    assert!(kept.told_to_close > 0, "{kept}");
    let begun = Instant::now();
    let report = sandbox.stop();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!((report.ledger().forced, report.ledger().forced_main), (0, 0), "{report:?}");
}

fn actix() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| unbroken_tests::example::built("actix"))
}

#[test]
fn no_request_to_actix_fails_over_restarts() {
    let sandbox = sandbox("HTTP", actix(), "0s");
    let target = sandbox.start().target("http");
    nothing_is_lost(&sandbox, actix(), &target);
}

/// actix is paused in the confirm window.
#[test]
fn no_request_to_actix_fails_over_restarts_with_a_confirm_window() {
    let sandbox = sandbox("HTTP", actix(), "500ms");
    let target = sandbox.start().target("http");
    nothing_is_lost(&sandbox, actix(), &target);
}

/// Clients of HTTP/1 and of HTTP/2 behind TLS.
#[test]
fn no_request_to_hyper_behind_tls_fails_over_restarts() {
    let program = unbroken_tests::example::built("hyper-tls");
    let mut sandbox = sandbox("HTTPS", &program, "0s");
    let certified =
        rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let settings = format!(
        "[app]\ncertificate = {:?}\nkey = {:?}\n",
        sandbox.path("cert.pem"),
        sandbox.path("key.pem")
    );
    fs::write(sandbox.path("cert.pem"), certified.cert.pem()).expect("a file");
    fs::write(sandbox.path("key.pem"), certified.signing_key.serialize_pem()).expect("a file");
    fs::write(sandbox.path("app.toml"), settings).expect("a file");
    sandbox.set("DAEMON_CONFIG", sandbox.path("app.toml").display().to_string());
    let Target::Tcp(addr) = sandbox.start().target("https") else { panic!("not TCP") };

    let relay = Relay::start(addr, certified.cert.der().clone());
    // Sequential requests over one connection, which ends at each restart.
    let mut curl = Command::new("curl");
    let urls = format!("https://127.0.0.1:{}/[1-4000]", addr.port());
    curl.args(["-sSk", "--fail", "--fail-early", "--http2", "-w", "%{http_version}\n", &urls]);
    let curl = Child::spawn(&mut curl);
    nothing_is_lost(&sandbox, &program, &Target::Tcp(relay.addr));
    let output = curl.wait(SOON);
    // The stop ended it, if it was not done.
    let answers = output.stdout.lines().filter(|line| *line == "2").count();
    assert!(answers > 500 && (answers == 4000 || output.code() == 7), "{answers}\n{output}");
}

/// Puts TLS around the connections of a load. It ends each side when the other one ends, and so changes nothing
/// in how connections end.
struct Relay {
    addr: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    fn start(to: SocketAddr, certificate: CertificateDer<'static>) -> Relay {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(relay(client, to, tls));
            }
        });
        Relay { addr, _runtime: runtime }
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr, tls: TlsConnector) -> std::io::Result<()> {
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    let server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let mut server = tls.connect(name, server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
