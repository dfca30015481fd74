//! The on-instance half of Amazon EC2 Instance Connect.

pub mod admin;
pub mod sshd;
