use unbroken::daemon;

#[daemon(detach = "yes", graceful_restart = 1, restart = "always")]
async fn main() {}
