//! hyper behind TLS, HTTP/1 and HTTP/2, with an accept loop over the daemon's own listener: only new connections
//! go to the next generation at once, and the old one ends its own without losing a request.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use unbroken::net::Stream;
use unbroken::{Daemon, daemon};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(serde::Deserialize)]
struct Settings {
    /// The certificate chain, as PEM.
    certificate: PathBuf,
    /// Its private key, as PEM.
    key: PathBuf,
}

#[daemon(graceful_restart, listen(https = "127.0.0.1:8443"), config = "/etc/hyper-tls.toml")]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    // A new certificate is deployed by a restart, which is aborted if the certificate is wrong.
    let tls = TlsAcceptor::from(Arc::new(tls(&daemon.config()?)?));
    let mut listener = daemon.listener("https")?;
    while let Some(accepted) = listener.next().await {
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                continue;
            }
        };
        let (handle, tls) = (daemon.clone(), tls.clone());
        daemon.spawn(async move {
            if let Err(error) = serve(&handle, tls, stream).await {
                eprintln!("connection failed: {error:#}");
            }
        });
    }
    Ok(())
}

fn tls(Settings { certificate, key }: &Settings) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(daemon: &Daemon, tls: TlsAcceptor, stream: Stream) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let draining = daemon.draining_token();
    let generation = daemon.generation();
    let service = service_fn(move |request: Request<Incoming>| {
        // The client sends its next request over a new connection, to the next generation.
        let close = draining.is_cancelled() && request.version() <= Version::HTTP_11;
        async move { Ok::<_, Infallible>(answer(generation, close)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(|error| anyhow!(error)),
        () = daemon.draining() => {}
    }
    if !is_http2 {
        // hyper would close an idle connection now, and with it a request that is on its way. So the
        // connection stays open for one more request. What remains: a client that sends its next request at
        // the very moment at which this time is over.
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(|error| anyhow!(error)),
            () = tokio::time::sleep(half_of_the_drain(daemon)) => {}
        }
    }
    // HTTP/2: a GOAWAY in two steps, which loses no request.
    connection.as_mut().graceful_shutdown();
    connection.await.map_err(|error| anyhow!(error))
}

fn half_of_the_drain(daemon: &Daemon) -> Duration {
    let left = daemon.drain_deadline().map(|at| at.saturating_duration_since(Instant::now()));
    left.unwrap_or_default() / 2
}

fn answer(generation: u32, close: bool) -> Response<Full<Bytes>> {
    let pid = std::process::id();
    let text = format!("hello from generation={generation} pid={pid}\n");
    let mut response = Response::new(Full::from(text));
    if close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
