use unbroken::daemon;

#[daemon(
    graceful_restart,
    ready_timeout = 60,
    drain_timeout = "30",
    kill_timeout = 5s,
    confirm_window = "soon",
    backoff_min = true,
    backoff_max = 1.5,
    start_limit_interval,
)]
async fn main() {}
