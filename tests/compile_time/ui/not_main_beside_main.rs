use unbroken::{Daemon, daemon};

#[daemon]
async fn serve(daemon: Daemon) {
    daemon.draining().await;
}

fn main() {
    drop(serve);
}
