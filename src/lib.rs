//! The on-instance half of Amazon EC2 Instance Connect.
//!
//! A principal pushes a public key with `SendSSHPublicKey`; for 60 seconds the instance's metadata holds it,
//! signed by AWS. At login sshd runs [`helper`] as its `AuthorizedKeysCommand`, which proves the key and prints
//! it. Data goes one way:
//!
//! ```text
//!   sshd: USER FINGERPRINT
//!     │
//!     ▼
//!   request ─▶ instance ─▶ imds ─▶ place ─▶ trust ─▶ keys ─▶ output ─▶ sshd
//!   (shape)    (sysfs)     (HTTP)  (name)   (X.509,  (record)  (stdout)
//!     │           │          │       │      OCSP)      │
//!     └───────────┴──────────┴───────┴────────┴────────┴─▶ audit ─▶ syslog
//! ```
//!
//! [`authorize`] is that line on one screen, and the only module that calls across. What each module may touch
//! is in `docs/ARCHITECTURE.md`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod audit;
pub mod authorize;
pub mod config;
pub mod escape;
pub mod file;
pub mod helper;
pub mod imds;
pub mod instance;
pub mod keys;
pub mod output;
pub mod place;
pub mod reason;
pub mod request;
pub mod sshd;
pub mod trust;
