//! What `[keys] one_time` needs of this machine.
//!
//! For `config check`, what would keep it from working, seen by whoever asks, from the outside: `doctor` looks with the
//! eyes of the helper's user, which says more and needs root. For `setup apply`, the directory where nobody made it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use nix::unistd::User;

use super::doctor::sshd;
use crate::claim::DIRECTORY;
use crate::config::Config;
use crate::sshd::RUN_AS;
use crate::sshd::system::root::Root;

/// One sentence for each.
#[must_use]
pub fn remarks() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut remarks = Vec::new();
    remarks.extend(hidden_proc(&mounts));
    remarks.extend(directory());
    // What cannot be read here is doctor's business.
    let sshd = Root::new(Path::new("/"))
        .ok()
        .and_then(|root| sshd::survey(&root).ok());
    for line in sshd.iter().flat_map(sshd::Sshd::without_fingerprint) {
        remarks.push(format!(
            "{line} does not hand on %f, and without it every key is refused"
        ));
    }
    remarks
}

/// Makes the directory of claims where the configuration asks for one-time keys and nobody has made it: no tmpfiles.d has
/// run, or the setting is older than this boot. Says what was done, and what could not be.
#[must_use]
pub fn make_directory() -> String {
    let wanted = Config::load(None).is_ok_and(|config| config.keys.one_time);
    let absent = fs::symlink_metadata(DIRECTORY).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if !(wanted && absent) {
        return String::new();
    }
    match made() {
        Ok(()) => format!("Made {DIRECTORY}, where one-time keys are noted, until the next boot.\n"),
        Err(error) => format!("Could not make {DIRECTORY}, where one-time keys are noted: {error}\n"),
    }
}

/// Nobody but root can put anything in the way: the directory lies in `/run`.
fn made() -> io::Result<()> {
    let owner =
        User::from_name(RUN_AS)?.ok_or_else(|| io::Error::other(format!("there is no user {RUN_AS}")))?;
    fs::DirBuilder::new().mode(0o700).create(DIRECTORY)?;
    std::os::unix::fs::chown(DIRECTORY, Some(owner.uid.as_raw()), None)
}

/// Whether the last mount on `/proc` hides other users' processes (proc(5), `hidepid`).
fn hidden_proc(mounts: &str) -> Option<String> {
    let of_proc = |line: &&str| line.split(' ').nth(1) == Some("/proc");
    let mount = mounts.lines().rfind(of_proc)?;
    let mut options = mount.split(' ').nth(3)?.split(',');
    let hidepid = options.find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(hidepid, "0" | "off"))
        .then(|| format!("/proc is mounted with hidepid={hidepid}, which hides sshd from {RUN_AS}"))
}

fn directory() -> Option<String> {
    let metadata = match fs::symlink_metadata(DIRECTORY) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("{DIRECTORY}: {error}")),
    };
    if !metadata.is_dir() {
        return Some(format!("{DIRECTORY} is not a directory"));
    }
    let owner = User::from_name(RUN_AS).ok().flatten();
    if owner.is_none_or(|owner| owner.uid.as_raw() != metadata.uid()) {
        return Some(format!(
            "{DIRECTORY} belongs to uid {}, not to {RUN_AS}",
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    (mode & 0o077 != 0).then(|| format!("{DIRECTORY} is open to others (mode {mode:04o})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_proc_counts() {
        let plain = "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n";
        let hiding = "proc /proc proc rw,relatime,hidepid=invisible 0 0\n";
        let shown = "proc /proc proc rw,hidepid=off 0 0\n";
        let elsewhere = "proc /srv/proc proc rw,hidepid=2 0 0\n";
        assert_eq!(hidden_proc(plain), None);
        assert_eq!(hidden_proc(&format!("{plain}{elsewhere}")), None);
        assert_eq!(hidden_proc(&format!("{hiding}{shown}")), None);
        assert!(
            hidden_proc(&format!("{plain}{hiding}")).is_some_and(|text| text.contains("hidepid=invisible"))
        );
        assert_eq!(hidden_proc(""), None);
    }
}
