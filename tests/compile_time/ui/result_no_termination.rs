use unbroken::{Daemon, daemon};

mod sync {
    #[unbroken::daemon]
    fn main() -> Option<u8> {
        None
    }
}

#[daemon]
async fn main(daemon: Daemon) -> String {
    daemon.name().to_owned()
}
