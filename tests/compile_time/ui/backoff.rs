use unbroken::daemon;

#[daemon(graceful_restart, backoff_min = "1m", backoff_max = "30s")]
async fn main() {}
