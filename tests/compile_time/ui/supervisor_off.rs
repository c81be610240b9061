use unbroken::daemon;

#[daemon(graceful_restart = false, restart = "always")]
async fn main() {}
