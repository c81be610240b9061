//! Every shape of `main` that Rust accepts.
#![deny(warnings, missing_docs, unreachable_pub, dead_code)]
#![forbid(unsafe_code)]

mod shapes {
    use std::process::{ExitCode, Termination};
    use unbroken::{Daemon, daemon};

    macro_rules! shape {
        ($name:ident: $($item:tt)*) => {
            pub(super) mod $name {
                #[allow(unused_imports)]
                use super::*;
                $($item)*
            }
        };
    }

    shape!(a: #[daemon] pub(crate) async fn main() {});
    shape!(b: #[daemon()] pub(crate) fn main() {});
    shape!(c: #[daemon] pub(crate) async fn main(daemon: Daemon) { daemon.draining().await });
    shape!(d: #[daemon] pub(crate) fn main(daemon: Daemon) { daemon.wait_draining() });
    shape!(e: #[daemon] pub(crate) async fn main(mut d: unbroken::Daemon) { d = d.clone(); drop(d) });
    shape!(f: #[daemon] pub(crate) async fn main(_: Daemon) -> anyhow::Result<()> { Ok(()) });
    shape!(g: #[daemon] pub(crate) async fn main(_daemon: ::unbroken::Daemon) -> ! { loop {} });
    shape!(h: #[daemon] pub(crate) async fn main() -> ! { loop {} });
    shape!(i: #[daemon] pub(crate) fn main() -> ! { loop {} });
    shape!(j: #[daemon] pub(crate) fn main(_daemon: Daemon) -> ! { loop {} });
    shape!(k: #[daemon] pub(crate) async fn main() -> ExitCode { ExitCode::SUCCESS });
    shape!(l: #[daemon] pub(crate) fn main() -> impl Termination { ExitCode::SUCCESS });
    shape!(m: #[daemon] pub(crate) async fn main(_: Daemon) -> impl Termination {});
    shape!(n: #[daemon] pub(crate) fn main() -> Result<(), unbroken::Error> { Ok(()) });
    shape!(o: #[daemon] pub(crate) async fn main(d @ Daemon { .. }: Daemon) { drop(d) });
    shape!(p: #[daemon] pub(crate) async fn main(#[allow(unused_variables)] d: Daemon) {});
    shape!(q: #[daemon] pub(crate) fn main(daemon: Daemon,) -> Result<ExitCode, Box<dyn std::error::Error>> {
        daemon.wait_draining();
        Ok(ExitCode::SUCCESS)
    });
    // Items of the program with the names that the expansion uses do not collide with it.
    shape!(r: #[daemon] pub(crate) async fn main() {
        const SPEC: u8 = 1;
        let _: u8 = SPEC;
        if std::hint::black_box(false) {
            Box::pin(main()).await;
        }
    });

    macro_rules! passed {
        ($ty:ty, $path:literal, $time:expr) => {
            pub(super) mod passed {
                #[unbroken::daemon(pidfile = $path, drain_timeout = $time)]
                pub(crate) async fn main(daemon: $ty) {
                    daemon.draining().await
                }
            }
        };
    }
    passed!(unbroken::Daemon, "/run/x.pid", "30s");
}

/// The outermost one keeps its documentation.
pub mod program {
    use unbroken::{Daemon, daemon};

    /// The documentation stays.
    #[doc(alias = "daemon")]
    #[allow(unused_variables)]
    #[daemon(graceful_restart)]
    #[expect(unused_mut)]
    #[cfg(all())]
    #[cfg_attr(all(), inline(never))]
    pub async fn main(daemon: Daemon) {
        let mut unused = 1;
    }
}

fn main() {
    let _: [fn() -> std::process::ExitCode; 19] = [
        program::main,
        shapes::a::main,
        shapes::b::main,
        shapes::c::main,
        shapes::d::main,
        shapes::e::main,
        shapes::f::main,
        shapes::g::main,
        shapes::h::main,
        shapes::i::main,
        shapes::j::main,
        shapes::k::main,
        shapes::l::main,
        shapes::m::main,
        shapes::n::main,
        shapes::o::main,
        shapes::p::main,
        shapes::q::main,
        shapes::r::main,
    ];
    let _ = shapes::passed::main;
}
