//! The compiler's messages for mistakes in the attribute: see `tests/p10_compile_time.rs`.
//!
//! This is a package of its own because trybuild compiles all dependencies of the package once more, and
//! `unbroken-tests` has many.
