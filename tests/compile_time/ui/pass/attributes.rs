//! Attributes such as `cfg` on the function apply to the whole expansion.

mod program {
    #[cfg(any())]
    #[unbroken::daemon(pidfle = "nobody reads this")]
    fn main() {}

    #[unbroken::daemon]
    #[cfg(not(any()))]
    #[cfg_attr(all(), deny(unused_variables), allow(unused_mut))]
    pub(crate) async fn main() {
        #![allow(dead_code)]
        let mut _x = 1;
        fn unused() {}
    }
}

// Compiled, not run: a test must not start a daemon outside of its own directory.
fn main() {
    let _ = program::main;
}
