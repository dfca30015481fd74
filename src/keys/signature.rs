//! The record's signature: RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of exactly 32 bytes
//! (RFC 8017 §8.1.2, §9.1).

use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

use crate::reason::{Reason, Refusal};

/// Holds where `signature` is the signer's over `signed`. `key` is the DER of an RSAPublicKey.
///
/// # Errors
/// [`Reason::RecordSignature`].
pub(super) fn verify(key: &[u8], signed: &[u8], signature: &[u8]) -> Result<(), Refusal> {
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
        .verify(signed, signature)
        .map_err(|_| Refusal::new(Reason::RecordSignature, "the signer did not sign this record"))
}
