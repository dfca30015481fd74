//! What SELinux must be told for a setting: the booleans of the policy module, off until an administrator turns them on
//! (`packaging/selinux`).

use std::fs;

use crate::config::Config;

/// The policy in force, as the kernel shows it (security/selinux/selinuxfs.c).
const POLICY: &str = "/sys/fs/selinux";

/// A boolean that is off although a setting needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// The setting, as it is written.
    pub setting: &'static str,
    /// The boolean's name.
    pub boolean: &'static str,
    /// What comes of it.
    pub effect: &'static str,
    /// Whether that keeps people out who come by a pushed key.
    pub keeps_out: bool,
}

/// `[[chain]]`: the helper's domain may run no other program.
const LINKS: Lacking = Lacking {
    setting: "[[chain]]",
    boolean: "ec2_instance_connect_links",
    effect: "no link is run",
    keeps_out: false,
};

/// `[keys] one_time`: it may look at no sshd in /proc, and write nothing in /run.
const ONE_TIME: Lacking = Lacking {
    setting: "[keys] one_time",
    boolean: "ec2_instance_connect_one_time",
    effect: "every pushed key is refused",
    keeps_out: true,
};

/// Whether SELinux enforces its policy; nothing where it is not in this kernel, or switched off.
#[must_use]
pub fn enforcing() -> Option<bool> {
    let mode = fs::read(format!("{POLICY}/enforce")).ok()?;
    Some(mode == b"1")
}

/// The booleans that this configuration needs here and that are off. What cannot be read is not known to be off.
#[must_use]
pub fn lacking(config: &Config) -> Vec<Lacking> {
    if enforcing() != Some(true) {
        return Vec::new();
    }
    [
        (!config.chain.is_empty(), LINKS),
        (config.keys.one_time, ONE_TIME),
    ]
    .into_iter()
    .filter(|(wanted, lacking)| *wanted && is_off(lacking.boolean))
    .map(|(_, lacking)| lacking)
    .collect()
}

/// The file has the value in force and the one that waits to be committed.
fn is_off(boolean: &str) -> bool {
    fs::read(format!("{POLICY}/booleans/{boolean}")).is_ok_and(|values| values.starts_with(b"0 "))
}

/// What turns them on, now and at every boot.
#[must_use]
pub fn remedy(lacking: &[Lacking]) -> String {
    let values: Vec<String> = lacking.iter().map(|it| format!("{}=on", it.boolean)).collect();
    format!("setsebool -P {}", values.join(" "))
}
