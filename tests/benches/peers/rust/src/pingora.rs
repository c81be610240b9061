//! A server of `pingora`: the next process is started with `--upgrade`, and the one before it, told by
//! SIGQUIT, sends it the sockets.

use async_trait::async_trait;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::services::listening::Service;

struct Hello {
    answer: String,
}

#[async_trait]
impl ServeHttp for Hello {
    async fn response(&self, _: &mut ServerSession) -> http::Response<Vec<u8>> {
        let body = self.answer.clone().into_bytes();
        let mut response = http::Response::new(body);
        let length = response.body().len().into();
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        headers.insert(http::header::CONTENT_LENGTH, length);
        response
    }
}

fn main() -> anyhow::Result<()> {
    let addr = hello::address()?;
    let upgrade = std::env::args().nth(2).as_deref() == Some("--upgrade");
    let conf = ServerConf {
        upgrade_sock: "pingora.sock".into(),
        threads: std::thread::available_parallelism()?.into(),
        // Slept in any case, by an old process whose connections are gone as well; 300 by default.
        grace_period_seconds: Some(10),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt { upgrade, ..Opt::default() }, conf);
    server.bootstrap();
    let mut service = Service::new("hello".into(), Hello { answer: hello::answer()? });
    service.add_tcp(&addr.to_string());
    server.add_service(service);
    server.run_forever()
}
