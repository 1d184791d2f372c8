//! `cargo xtask`: every developer and CI action.
fn main() {}
