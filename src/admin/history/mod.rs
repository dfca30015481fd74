//! `history`: who was here.
pub mod cloudtrail;
pub mod event;
pub mod journal;
pub mod lines;
pub mod message;
pub mod moment;
pub mod syslog;
