//! What the compiler says of the attribute: see `tests/p10_compile_time.rs`.
//!
//! A package of its own, as all that its neighbour depends on would have to be compiled for it once more.
