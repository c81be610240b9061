//! A program that knows nothing of its daemon.

use unbroken::daemon;

#[daemon(name = "app", ready_timeout = "10s", drain_timeout = "10s", kill_timeout = "1s")]
fn main() {
    loop {
        std::thread::park();
    }
}
