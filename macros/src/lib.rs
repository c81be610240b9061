//! The `#[daemon]` attribute.
