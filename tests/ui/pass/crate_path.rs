//! The crate under another name.
extern crate unbroken as renamed;

mod facade {
    pub(crate) use ::unbroken as inner;
}

mod text {
    #[renamed::daemon(crate = "crate::facade::inner")]
    pub(crate) async fn main(daemon: renamed::Daemon) {
        daemon.draining().await;
    }
}

mod path {
    #[renamed::daemon(crate = crate::facade::inner)]
    pub(crate) fn main() {}
}

mod absolute {
    #[renamed::daemon(crate = ::unbroken)]
    pub(crate) fn main() {}
}

#[renamed::daemon(crate = renamed)]
async fn main() {
    let _ = (text::main, path::main, absolute::main);
}
