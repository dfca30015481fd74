//! The journal: what a cut-off transaction leaves behind so that the next call can put things right.
//!
//! Written and synced before the first change, it lists every step with digests of what was there and what was to be.
//! While a transaction runs it is called `setup.intent`; committing renames it to `setup.done`, which needs no space.
//! A file that is replaced or deleted keeps a second name (`.NAME.ec2-instance-connect.old`) until then, so putting it
//! back is a rename as well: same inode, same mode, same labels, and possible on a full disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::root::Root;
use crate::sshd::plan::Step;

/// Where setup keeps its state.
pub const STATE_DIR: &str = "/var/lib/ec2-instance-connect";

/// The journal of a transaction under way.
const INTENT: &str = "setup.intent";
/// The journal of a transaction whose leftovers only have to be swept.
const DONE: &str = "setup.done";

/// The format of the file; another number is not touched.
const VERSION: u32 = 1;

/// A transaction, as it was to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// Whether systemd has to read units again after a change either way.
    pub unit_changes: bool,
    /// The steps, in order.
    pub steps: Vec<Entry>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Entry {
    /// A directory to be made.
    MakeDirectory {
        /// Which, as seen inside the root.
        path: PathBuf,
    },
    /// A file to be written or, without `after`, deleted.
    File {
        /// Which, as seen inside the root.
        path: PathBuf,
        /// SHA-256 of what was there; absent when nothing was.
        before: Option<String>,
        /// SHA-256 of what was to be there.
        after: Option<String>,
    },
    /// A directory to be taken away if empty, once everything is settled.
    RemoveDirectory {
        /// Which, as seen inside the root.
        path: PathBuf,
    },
}

/// Where a cut-off transaction got to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Under way: to be put back.
    Intent(Journal),
    /// Committed: to be swept.
    Done(Journal),
}

impl Journal {
    /// The journal of these steps.
    #[must_use]
    pub fn of(steps: &[Step], unit_changes: bool) -> Self {
        let entry = |step: &Step| match step {
            Step::MakeDirectory { path } => Entry::MakeDirectory { path: path.clone() },
            Step::Write {
                path, before, after, ..
            } => Entry::File {
                path: path.clone(),
                before: before.as_deref().map(digest),
                after: Some(digest(after)),
            },
            Step::Delete { path, before } => Entry::File {
                path: path.clone(),
                before: Some(digest(before)),
                after: None,
            },
            Step::RemoveDirectory { path } => Entry::RemoveDirectory { path: path.clone() },
        };
        Self {
            version: VERSION,
            unit_changes,
            steps: steps.iter().map(entry).collect(),
        }
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// As open(2), write(2), fsync(2), rename(2); nothing is left behind then.
    pub fn write(&self, root: &Root) -> io::Result<()> {
        let dir = state_dir(root)?;
        let fresh = dir.join("setup.intent.new");
        let result = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|text| {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&fresh)?;
                file.write_all(&text)?;
                file.sync_all()?;
                fs::rename(&fresh, dir.join(INTENT))?;
                sync_dir(&dir)
            });
        if result.is_err() {
            // Best effort: an unused temporary file is overwritten by the next call anyhow.
            let _ = fs::remove_file(&fresh);
            let _ = fs::remove_file(dir.join(INTENT));
        }
        result
    }

    /// Marks the transaction as committed.
    ///
    /// # Errors
    /// As rename(2).
    pub fn commit(root: &Root) -> io::Result<()> {
        let dir = state_dir(root)?;
        fs::rename(dir.join(INTENT), dir.join(DONE))?;
        sync_dir(&dir)
    }

    /// Forgets the transaction, committed or put back.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn clear(root: &Root) -> io::Result<()> {
        let dir = state_dir(root)?;
        for name in [INTENT, DONE] {
            remove_if_exists(&dir.join(name))?;
        }
        sync_dir(&dir)
    }

    /// Looks for what an earlier call left. Changes nothing.
    ///
    /// # Errors
    /// When there is a journal that can't be read: nothing may be done before somebody has looked.
    pub fn find(root: &Root) -> io::Result<Option<Found>> {
        for name in [INTENT, DONE] {
            if let Some(bytes) = root.read_if_exists(&Path::new(STATE_DIR).join(name))? {
                let journal: Self = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
                if journal.version != VERSION {
                    return Err(io::Error::other(format!(
                        "journal version {} is unknown",
                        journal.version
                    )));
                }
                return Ok(Some(if name == INTENT {
                    Found::Intent(journal)
                } else {
                    Found::Done(journal)
                }));
            }
        }
        Ok(None)
    }
}

/// The state directory, made when missing.
///
/// # Errors
/// As mkdir(2).
pub fn state_dir(root: &Root) -> io::Result<PathBuf> {
    let wanted = Path::new(STATE_DIR);
    if let Ok(real) = root.resolve(wanted) {
        return Ok(root.outside(&real));
    }
    let real = root.outside(&root.resolve_parent(wanted)?);
    match fs::create_dir(&real) {
        // Another setup, which waits for the same lock, was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && real.is_dir() => return Ok(real),
        made => made?,
    }
    // The umask of whoever calls must not make it writable for others, nor unreadable.
    fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(real)
}

/// SHA-256 in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// fsync of a directory: its names are on disk afterwards.
///
/// # Errors
/// As fsync(2).
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// unlink(2), and a missing file is fine.
///
/// # Errors
/// As unlink(2).
pub fn remove_if_exists(path: &Path) -> io::Result<()> {
    // Asked first: on a read-only file system unlink(2) says so even of a file that is not there.
    match fs::symlink_metadata(path) {
        Err(error) if super::root::is_absent(&error) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => fs::remove_file(path),
    }
}
