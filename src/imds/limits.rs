//! How much is read, how often is asked. Every limit is an error when it is passed, never a truncation.

use std::time::Duration;

/// The key document: a record has about a kilobyte, so this holds a thousand pushes within one minute.
pub const MAX_KEYS_BYTES: usize = 1024 * 1024;

/// Every other document: the largest is the signer's chain, with four certificates about 6 KiB.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Headers in one response. The service sends about ten. (The HTTP library bounds their size as well.)
pub const MAX_HEADERS: usize = 64;

/// Longest session token taken; the service's have 56 bytes.
pub const MAX_TOKEN_BYTES: usize = 1024;

/// Staples fetched: a chain of five certificates with three staples each stays below, and no list can make us ask
/// for ever.
pub const MAX_STAPLES: usize = 16;

/// Longest staple name taken: an upper-case SHA-256 has 64 characters.
pub const MAX_STAPLE_NAME: usize = 128;

/// Lifetime of the session token, in seconds: longer than any run of the helper, shorter than is worth stealing.
pub const TOKEN_TTL_SECONDS: &str = "30";

/// The shortest and longest pause before a request is sent again, chosen at random so that a fleet of logins that were
/// throttled together does not come back together. The pause after it is twice as long.
pub const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// How often a request is sent again that the service throttled. Twice: a login is eighteen requests, and beside a flood
/// that has one in eight throttled, one more try each would lose three logins in a hundred (docs/PERFORMANCE.md).
pub const THROTTLED_RETRIES: u32 = 2;

/// How often a request is sent again whose connection was dropped, or that the service failed to answer otherwise.
pub const RETRIES: u32 = 1;
