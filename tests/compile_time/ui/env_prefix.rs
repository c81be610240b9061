use unbroken::daemon;

#[daemon(env_prefix = "wastebin")]
fn main() {}

mod dashes {
    #[unbroken::daemon(env_prefix = "my-app")]
    fn main() {}
}

mod taken {
    #[unbroken::daemon(env_prefix = "LISTEN_")]
    fn main() {}
}

mod number {
    #[unbroken::daemon(env_prefix = "9")]
    fn main() {}
}
