//! A make-believe EC2, good enough that real clients cannot tell.
//!
//! ```text
//! World ──start──▶ Simulator ─┬─ metadata services, one or more addresses for each instance (imds)
//!   instances                 ├─ AWS API and control interface (api, control)
//!   principals                └─ files: root, configuration, sysfs, CloudTrail
//!
//! Scene ──build──▶ Evidence     the same documents as bytes, without a server (evidence)
//!   SignerSpec ──▶ Signer       chain and staples (signer, certificate, ocsp, key)
//!   Record ──▶ bytes            the active-keys document (record)
//! ```
//!
//! Calls block; the servers run on a thread of their own and end when the [`Simulator`] is dropped.
//!
//! ```no_run
//! use eic_simulator::{Simulator, World, faults::{Effect, Fault}, imds};
//!
//! # fn main() -> std::io::Result<()> {
//! let ec2 = Simulator::start(World::nitro("i-0123456789abcdef0").region("eu-central-1"))?;
//! ec2.push("ec2-user", "ssh-ed25519 AAAA… me@here");
//! ec2.fault(Fault::on(imds::REGION, Effect::Status(503)).times(1));
//! // … run the helper with `ec2.config_file()` …
//! assert!(!ec2.requests().is_empty());
//! # Ok(()) }
//! ```

mod api;
pub mod certificate;
pub mod clock;
mod control;
pub mod der;
pub mod evidence;
pub mod faults;
mod http;
pub mod imds;
pub mod key;
pub mod ocsp;
pub mod principals;
pub mod record;
mod service;
pub mod signer;
mod simulator;
mod state;
mod trail;
pub mod world;

pub use simulator::{CALLER, Handle, Simulator};
pub use state::Request;
pub use world::World;
