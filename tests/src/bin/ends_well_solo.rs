//! Ends well before it is ready: it has nothing to serve.

use unbroken::{Daemon, daemon};

#[daemon(name = "app", listen(http = "127.0.0.1:0"))]
async fn main(_daemon: Daemon) {
    println!("nothing to do");
}
