//! Is the signer AWS's? The only maker of [`TrustedSigner`].
//!
//! ```text
//! signer-cert/  ──PEM──▶ Chain ──path to an anchor, names, usage (RFC 5280)──▶ VerifiedChain
//! signer-ocsp/* ──DER──▶ Staple ─────one good one for each certificate (RFC 6960)──▶ TrustedSigner
//! ```
//!
//! Pure: bytes and a `now` go in, a proof or a refusal comes out. The one exception is `anchors`, which
//! reads the named bundle of trust anchors and nothing else.
#![deny(clippy::disallowed_methods)]

pub mod anchors;
mod chain;
mod der;
pub mod describe;
mod name;
mod ocsp;
mod pem;
mod revocation;
mod signature;

pub use chain::{Chain, VerifiedChain};
pub use ocsp::Staple;
pub use revocation::{TrustedSigner, staple_names};
