//! What the black-box tests share.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test program uses a part of this"
)]

pub mod case;
pub mod instance;
pub mod machine;
pub mod run;
pub mod sshd;

/// Says loudly that a test did not run, and fails where everything must (`EIC_REQUIRE_ALL`, as in CI).
pub fn skip(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
    eprintln!("SKIPPED: {test}: {why}");
    assert!(
        std::env::var_os("EIC_REQUIRE_ALL").is_none(),
        "SKIPPED: {test}: {why}"
    );
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}
