//! What the black-box tests share.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test program uses a part of this"
)]

pub mod case;
