//! A sync `main` without a `Daemon` argument, in a solo daemon. It never returns.

use unbroken::daemon;

#[daemon(name = "app", ready_timeout = "10s", drain_timeout = "10s", kill_timeout = "1s")]
fn main() {
    loop {
        std::thread::park();
    }
}
