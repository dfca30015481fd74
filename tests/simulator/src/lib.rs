//! A make-believe EC2.

mod api;
pub mod certificate;
pub mod clock;
mod control;
pub mod der;
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
