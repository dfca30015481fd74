//! What the black-box tests share.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod case;
