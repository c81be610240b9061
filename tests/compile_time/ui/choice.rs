use unbroken::daemon;

#[daemon(graceful_restart, ready = "automatic", restart = "on_failure", flavor = multi_thread)]
async fn main() {}
