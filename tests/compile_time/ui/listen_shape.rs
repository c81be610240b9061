use unbroken::{Daemon, daemon};

mod text {
    use super::*;
    #[daemon(listen = "0.0.0.0:80")]
    async fn main(daemon: Daemon) {
        daemon.draining().await;
    }
}

mod dotted {
    use super::*;
    #[daemon(listen.http = "0.0.0.0:80")]
    async fn main(daemon: Daemon) {
        daemon.draining().await;
    }
}

#[daemon(listen())]
async fn main(daemon: Daemon) {
    daemon.draining().await;
}
