//! What sshd runs.
fn main() {}
