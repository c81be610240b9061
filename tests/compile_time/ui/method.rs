use unbroken::daemon;

struct Server;

impl Server {
    #[daemon]
    async fn main(&self) {}
}

fn main() {
    let _ = Server;
}
