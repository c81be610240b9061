use unbroken::{Daemon, daemon};

#[daemon]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let name: u32 = daemon.name();
    println!("{name}");
    Ok(())
}
