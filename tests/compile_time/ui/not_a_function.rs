use unbroken::daemon;

#[daemon(pidfle = "/run/x.pid")]
struct Server {
    name: String,
}

#[daemon]
mod inner {}
