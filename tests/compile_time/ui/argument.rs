use unbroken::{Daemon as D, daemon};
use std::net::TcpListener;

mod reference {
    use unbroken::{Daemon, daemon};

    #[daemon]
    fn main(daemon: &Daemon) {
        daemon.wait_draining();
    }
}

mod other {
    use super::{TcpListener, daemon};

    #[daemon]
    async fn main(mut listener: TcpListener) -> anyhow::Result<()> {
        listener.whatever(1).await?;
        let taken: String = listener.take();
        println!("{taken}");
        Ok(())
    }
}

mod tuple {
    #[unbroken::daemon]
    fn main((a, b): (String, &str)) {
        println!("{a}{b}");
    }
}

#[daemon]
async fn main(daemon: D) -> anyhow::Result<()> {
    println!("{}", daemon.name());
    daemon.draining().await;
    Ok(())
}
