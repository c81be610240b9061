use unbroken::{Daemon, daemon};

#[daemon(listen(
    web,
    api(backlog = 10),
    Web = "0.0.0.0:80",
    a__b = "0.0.0.0:81",
    web-admin = "0.0.0.0:82",
    "quoted" = "0.0.0.0:83",
    table(),
))]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
