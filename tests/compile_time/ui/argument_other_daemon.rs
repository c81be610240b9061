use unbroken::daemon;

struct Daemon;

#[daemon]
async fn main(daemon: Daemon) {
    drop(daemon);
}
