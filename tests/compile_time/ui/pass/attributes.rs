//! Attributes that decide about the function decide about all of it.

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

// Compiled, not run: a test starts no daemon outside of a place of its own.
fn main() {
    let _ = program::main;
}
