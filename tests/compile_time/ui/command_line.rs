use unbroken::{Daemon, Overrides, daemon};

mod not_a_command_line {
    use unbroken::{Daemon, daemon};

    #[daemon]
    async fn main(daemon: Daemon, args: Vec<String>) {
        println!("{args:?}");
        daemon.draining().await;
    }
}

mod wrong_function {
    use unbroken::{Daemon, OneShot, daemon};

    fn configure(port: u16) -> u16 {
        port
    }

    fn oneshot(_: &OneShot<'_>) -> bool {
        true
    }

    #[daemon(configure = configure, oneshot = oneshot)]
    async fn main(daemon: Daemon) {
        daemon.draining().await;
    }
}

fn configure(overrides: &mut Overrides<'_>) {
    overrides.set("drain_timeout", "5s");
}

#[daemon(
    configure = "configure",
    oneshot,
    listen(http(addr = "127.0.0.1:80", env = "1 PORT"), api(env = "API")),
)]
async fn main(daemon: Daemon, args: u32, other: u32) {
    println!("{args} {other}");
    daemon.draining().await;
}
