use unbroken::daemon;

#[daemon(flavor = "current_thread", worker_threads = 2)]
fn main() {}
