//! A command line as the second argument, and the functions of the program.

use std::ffi::OsString;
use unbroken::{CommandLine, CommandLineExit, Daemon, OneShot, Overrides, daemon};

struct Args {
    port: u16,
}

impl CommandLine for Args {
    fn parse(args: Vec<OsString>, verbs: &str) -> Result<Args, CommandLineExit> {
        match args.len() {
            1 => Ok(Args { port: 80 }),
            _ => Err(CommandLineExit::answer(verbs)),
        }
    }
}

fn configure(args: &Args, overrides: &mut Overrides<'_>) -> Result<(), std::io::Error> {
    overrides.set("listen.http", format_args!("127.0.0.1:{}", args.port)).set("detach", false);
    Ok(())
}

mod commands {
    pub fn run(args: &super::Args, context: &super::OneShot<'_>) -> Option<unbroken::Result<()>> {
        (args.port == 0).then(|| context.block_on(async {}))
    }
}

#[daemon(configure = configure, oneshot = commands::run, listen(http(addr = ":80", env = "PORT")))]
async fn serve(daemon: Daemon, Args { port }: Args) -> unbroken::Result<()> {
    println!("{port}");
    daemon.draining().await;
    Ok(())
}

mod without_a_command_line {
    use unbroken::{Daemon, OneShot, Overrides, daemon};

    fn configure(overrides: &mut Overrides<'_>) {
        if let Some(port) = overrides.var("PORT") {
            overrides.set("listen.http", port);
        }
    }

    fn run(_: &OneShot<'_>) -> Option<()> {
        None
    }

    #[daemon(configure = self::configure, oneshot = run, listen(http = ":80"))]
    pub fn main(daemon: Daemon) -> ! {
        loop {
            daemon.wait_draining();
        }
    }

    #[daemon(configure = configure)]
    pub fn plain() {}
}

fn main() {
    // The test runs this program, which must not become a daemon.
    let _ = (serve, without_a_command_line::main, without_a_command_line::plain);
}
