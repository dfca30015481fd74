//! What goes wrong on a machine and around it, one thing at a time, and the helper as sshd runs it: as a user without
//! rights, with a logger beside it. Whatever happens it ends within its deadline with exit code 0, gives no key but
//! the pushed one, and says in one line of the log why; without the fault it gives the key.
//!
//! `make faults` runs the same on the release binary, and more of it (`EIC_FAULTS=long`, `EIC_HELPER=FILE`).
//!
//! Proven elsewhere: single answers of the metadata service (tests/helper.rs), evidence that does not hold
//! (tests/refusals.rs), logs that are full or gone below a real sshd (tests/login.rs).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

#[path = "../common/mod.rs"]
mod common;
mod ground;
mod host;
mod killed;
mod lies;
mod network;
