//! Patching sshd's configuration as one reversible transaction.
//!
//! Two halves. The pure one decides and can be tested with bytes alone:
//!
//! ```text
//! config   one file: bytes -> lines, cut as sshd cuts them
//! tree     all files: Include, Match, who wins and where
//! unit     systemd's unit files and environment -> sshd's arguments
//! args     sshd's arguments: -f, -o and what a check must repeat
//! call     how sshd is told to call the command, and which of its tokens the helper's configuration needs
//! adopt    somebody's command as a link of ours, and back
//! layout   what belongs to us and what Amazon's packages left: drop-in, block, two lines, unit override
//! dump     `sshd -T`: what it says, and whether a candidate may pass
//! plan     Facts -> Plan | Refusal
//! ```
//!
//! The other half does: [`system`] reads the facts, asks the real sshd about a candidate, writes, reloads, proves and
//! takes back. Nothing in the first half touches a file, a clock or a process.

pub mod adopt;
pub mod args;
pub mod call;
pub mod config;
pub mod diff;
pub mod dump;
pub mod glob;
pub mod layout;
pub mod plan;
pub mod reason;
pub mod system;
pub mod tree;
pub mod unit;

/// The user as whom sshd runs the command. Runbooks and Match blocks name it.
pub const RUN_AS: &str = "ec2-instance-connect";

/// The paths under which the world knows the command: Debian's and the rpm world's. A package ships exactly one.
pub const COMMANDS: [&str; 2] = [
    "/usr/share/ec2-instance-connect/eic_run_authorized_keys",
    "/opt/aws/bin/eic_run_authorized_keys",
];

/// What sshd hands over: login name and the offered key's fingerprint, as the reference has it. An unknown token
/// kills every session and `sshd -t` does not notice, so more than these only where a setting needs it ([`call`]).
pub const ARGUMENTS: &str = "%u %f";

/// Where our binaries really are; the command path is a symlink to this directory.
pub const LIBEXEC: &str = "/usr/libexec/ec2-instance-connect";

/// Where sshd's configuration is, unless the daemon is told otherwise.
pub const MAIN_CONFIG: &str = "/etc/ssh/sshd_config";

/// Where a distribution with an immutable default keeps it (SUSE); read by its sshd when [`MAIN_CONFIG`] is absent.
pub const VENDOR_CONFIG: &str = "/usr/etc/ssh/sshd_config";

/// The directory of drop-ins.
pub const DROPIN_DIR: &str = "/etc/ssh/sshd_config.d";

/// Our drop-in: the name that Amazon's own package uses.
pub const DROPIN: &str = "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf";

/// An administrator's standing "no": while it exists no installation or upgrade applies anything.
pub const HOLD: &str = "/etc/ec2-instance-connect/setup.off";
