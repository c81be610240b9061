#![deny(unused_variables, unused_must_use, unreachable_code)]
use unbroken::{Daemon, daemon};

#[daemon]
async fn main(daemon: Daemon) {
    let x = 1;
    std::future::ready(());
}
