use std::fmt::Debug;
use unbroken::{Daemon, daemon};

mod const_main {
    #[unbroken::daemon]
    const fn main() {
        let _used = String::from("x");
    }
}

mod unsafe_main {
    #[unbroken::daemon]
    async unsafe fn main() {}
}

mod extern_main {
    #[unbroken::daemon]
    extern "C" fn main() {}
}

mod variadic_main {
    #[unbroken::daemon]
    unsafe extern "C" fn main(args: ...) {
        let _ = args;
    }
}

#[daemon]
async fn main<T>(daemon: Daemon, other: T)
where
    T: Debug,
{
    println!("{} {other:?}", daemon.name());
}
