//! The half that does: reads the machine, asks sshd, writes, reloads, proves, and takes back.
//!
//! ```text
//! root         a machine's file tree, or an image's
//! run          a tool, with a deadline
//! facts        the machine -> plan::Facts
//! judge        the real sshd's opinion of a candidate, in a private mount namespace
//! journal      what a cut-off transaction leaves for the next call
//! files        steps, done and undone by rename
//! service      systemd's reload and the proof that sshd lives
//! transaction  all of it in order
//! user         becoming another one, as sshd does for its command
//! ```

pub mod facts;
pub mod files;
pub mod journal;
pub mod judge;
pub mod root;
pub mod run;
pub mod service;
pub mod transaction;
pub mod trial;
pub mod user;
