use unbroken::daemon;

#[daemon(name = ".hidden", crate = 1)]
async fn main() {}
