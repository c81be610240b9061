//! The crate under another name, with the key `crate`.
extern crate unbroken as renamed;

mod facade {
    pub(crate) use ::unbroken as inner;
}

mod text {
    use super::renamed;

    #[renamed::daemon(crate = "crate::facade::inner")]
    pub(crate) async fn main(daemon: renamed::Daemon) {
        daemon.draining().await;
    }
}

mod path {
    use super::renamed;

    #[renamed::daemon(crate = crate::facade::inner)]
    pub(crate) fn main() {}
}

mod absolute {
    use super::renamed;

    #[renamed::daemon(crate = ::unbroken)]
    pub(crate) fn main() {}
}

mod name {
    use super::renamed;

    #[renamed::daemon(crate = renamed)]
    pub(crate) async fn main() {}
}

fn main() {
    let _ = (name::main, text::main, path::main, absolute::main);
}
