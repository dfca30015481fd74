//! The instance metadata service, version 2 and no other: what it says, as bytes, within limits.
//!
//! [`Session`] speaks HTTP; [`documents`](self) gives names to the paths. Nothing here knows what a certificate
//! or a key is, and nothing that comes from here is believed: it is evidence for [`crate::trust`] and
//! [`crate::keys`] to judge.
//!
//! The rules of the service are in `docs/PROTOCOL.md`, section "Instance metadata".

mod documents;
pub mod limits;
mod session;

pub use documents::{SignerDocuments, StapleName, Staples};
pub use session::Session;
