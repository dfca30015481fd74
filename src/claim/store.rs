//! The directory of claims, `/run/ec2-instance-connect`.
//!
//! A claim is a symbolic link that leads nowhere: its name is the record ([`Entry`]), its target the connection. Why a
//! link and not an empty file: symlink(2) makes name and owner in one step, or fails because the name is there. An empty
//! file must carry the owner in its name too, so that two owners' names differ and O_EXCL alone excludes nobody; a lock
//! would have to, and whoever held it could be stopped. Nor has a link content that a full disk could lack: on a tmpfs a
//! target as short as ours lies in the inode. Nothing ever follows it.
//!
//! No claim is lost to a sweep: a sweeper unlinks after it has seen the clock pass the record's expiry, and whoever
//! claims looks at the clock *after* the link is made, and counts it only before that time (`Desk::settle`). So a claim
//! that was made after another one had been swept is refused, as long as the clock does not go back by more than
//! [`KEPT`].

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::statvfs::fstatvfs;
use nix::unistd::{AccessFlags, faccessat};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::connection::Connection;
use super::name::Entry;
use super::unavailable;
use crate::reason::Refusal;

/// Where the claims are: on a tmpfs, gone with the boot as the connections are.
pub const DIRECTORY: &str = "/run/ec2-instance-connect";

/// How long a claim is kept after its record has expired, in seconds: more than a clock is ever set back in operation.
const KEPT: u64 = 300;

/// How many entries one run looks at to sweep them: a push every tenth of a second for as long as a claim is kept.
const MAX_SWEPT: usize = 4096;

/// Permissions of group and others, which must have none.
const FOREIGN: u32 = 0o077;

/// The directory, open. After this only symlinkat(2) and readlinkat(2) are needed.
#[derive(Debug)]
pub struct Claims {
    directory: OwnedFd,
}

impl Claims {
    /// Opens the directory, which must be this user's and nobody else's.
    ///
    /// # Errors
    /// [`crate::reason::Reason::OneTimeUnavailable`].
    pub fn open() -> Result<Self, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            open(DIRECTORY, flags, Mode::empty()).map_err(|errno| failed("cannot be opened", errno))?;
        Self::in_directory(opened)
    }

    fn in_directory(opened: OwnedFd) -> Result<Self, Refusal> {
        let stat = fstat(&opened).map_err(|errno| failed("cannot be looked at", errno))?;
        let me = geteuid().as_raw();
        if stat.st_uid != me {
            let detail = format!(
                "{DIRECTORY} belongs to uid {}, not to uid {me} that asks",
                stat.st_uid
            );
            return Err(unavailable(detail));
        }
        if stat.st_mode & FOREIGN != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(unavailable(format!(
                "{DIRECTORY} is open to others (mode {mode:04o})"
            )));
        }
        Ok(Self { directory: opened })
    }

    /// The directory itself.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Who owns the record, if anybody.
    ///
    /// # Errors
    /// [`crate::reason::Reason::OneTimeUnavailable`]: also for an entry that is not of our making, since nobody can say
    /// whose it is.
    pub fn owner(&self, entry: &Entry) -> Result<Option<Connection>, Refusal> {
        let name = entry.to_string();
        match readlinkat(&self.directory, name.as_str(), Vec::new()) {
            Ok(target) => match Connection::parse(target.to_bytes()) {
                Some(owner) => Ok(Some(owner)),
                None => Err(unavailable(format!("{DIRECTORY}/{name} names no connection"))),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("has an entry that cannot be read", errno)),
        }
    }

    /// Makes the record `claimant`'s unless it is somebody else's; says whose it is now.
    ///
    /// # Errors
    /// [`crate::reason::Reason::OneTimeUnavailable`]: a full or read-only file system, a directory that was removed.
    pub fn claim(&self, entry: &Entry, claimant: Connection) -> Result<Connection, Refusal> {
        let name = entry.to_string();
        match symlinkat(claimant.to_string().as_str(), &self.directory, name.as_str()) {
            Ok(()) => Ok(claimant),
            Err(Errno::EXIST) => self.owner(entry)?.ok_or_else(|| {
                unavailable(format!("{DIRECTORY}/{name} was removed while it was being read"))
            }),
            Err(errno) => Err(failed("takes no claim", errno)),
        }
    }

    /// Whether a claim could be made, as far as can be seen without making one.
    ///
    /// # Errors
    /// [`crate::reason::Reason::OneTimeUnavailable`]: a full or read-only file system.
    pub fn takes_claims(&self) -> Result<(), Refusal> {
        // Not rustix's: that needs a kernel of 5.8 for the effective user's rights, as libc does not.
        let effective = nix::fcntl::AtFlags::AT_EACCESS;
        faccessat(&self.directory, ".", AccessFlags::W_OK, effective)
            .map_err(|errno| failed("takes no claim", errno))?;
        let room = fstatvfs(&self.directory).map_err(|errno| failed("cannot be looked at", errno))?;
        // File systems without a fixed number of inodes give 0 for both.
        if room.files() > 0 && room.files_available() == 0 {
            return Err(failed("takes no claim", Errno::NOSPC));
        }
        Ok(())
    }

    /// Removes the claims of records that had expired [`KEPT`] seconds before `now`, in Unix seconds. What is no claim
    /// is left alone, and what cannot be removed is left to the next run.
    pub fn sweep(&self, now: u64) {
        let is_over = |entry: &Entry| entry.expires.saturating_add(KEPT) <= now;
        let over: Vec<Entry> = Dir::read_from(&self.directory)
            .into_iter()
            .flatten()
            .take(MAX_SWEPT)
            .flatten()
            .filter_map(|file| Entry::parse(file.file_name().to_bytes()))
            .filter(is_over)
            .collect();
        for entry in over {
            let _ = unlinkat(&self.directory, entry.to_string().as_str(), AtFlags::empty());
        }
    }
}

fn failed(what: &str, error: impl Into<io::Error>) -> Refusal {
    unavailable(format!("{DIRECTORY} {what}: {}", error.into()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::Barrier;

    use super::*;
    use crate::reason::Reason;

    const HERE: Connection = Connection { pid: 10, start: 7 };
    const THERE: Connection = Connection { pid: 11, start: 7 };

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        directory
    }

    fn claims(directory: &tempfile::TempDir) -> Result<Claims, Refusal> {
        Claims::in_directory(fs::File::open(directory.path()).unwrap().into())
    }

    fn entry(expires: u64) -> Entry {
        Entry {
            expires,
            digest: [0xab; 32],
        }
    }

    #[test]
    fn the_first_claim_stands_and_is_seen_by_all() {
        let directory = directory();
        let claims = claims(&directory).unwrap();
        assert_eq!(claims.owner(&entry(60)).unwrap(), None);
        assert_eq!(claims.claim(&entry(60), HERE).unwrap(), HERE);
        assert_eq!(claims.claim(&entry(60), THERE).unwrap(), HERE);
        assert_eq!(claims.claim(&entry(60), HERE).unwrap(), HERE);
        assert_eq!(
            super::tests::claims(&directory)
                .unwrap()
                .owner(&entry(60))
                .unwrap(),
            Some(HERE)
        );
    }

    #[test]
    fn of_many_claimants_at_once_exactly_one_is_told_that_it_owns_the_record() {
        const CLAIMANTS: u32 = 32;
        let directory = directory();
        let start = Barrier::new(usize::try_from(CLAIMANTS).unwrap());
        let owners: Vec<(Connection, Connection)> = std::thread::scope(|scope| {
            let one = |pid| {
                let (directory, start) = (&directory, &start);
                scope.spawn(move || {
                    let me = Connection { pid, start: 1 };
                    let claims = claims(directory).unwrap();
                    start.wait();
                    (me, claims.claim(&entry(60), me).unwrap())
                })
            };
            let running: Vec<_> = (1..=CLAIMANTS).map(one).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(
            owners.iter().filter(|(me, owner)| me == owner).count(),
            1,
            "{owners:?}"
        );
        assert!(
            owners.iter().all(|(_, owner)| *owner == owners[0].1),
            "{owners:?}"
        );
    }

    #[test]
    fn claims_of_expired_records_are_swept_and_nothing_else_is() {
        let directory = directory();
        let claims = claims(&directory).unwrap();
        for expires in [1000, 1001] {
            claims.claim(&entry(expires), HERE).unwrap();
        }
        fs::write(directory.path().join("1-README"), "somebody's").unwrap();
        claims.sweep(1000 + KEPT);
        assert_eq!(claims.owner(&entry(1000)).unwrap(), None);
        assert_eq!(claims.owner(&entry(1001)).unwrap(), Some(HERE));
        assert!(directory.path().join("1-README").exists());
        claims.sweep(1001 + KEPT);
        assert_eq!(claims.owner(&entry(1001)).unwrap(), None);
    }

    #[test]
    fn a_directory_that_others_may_use_is_refused() {
        let directory = directory();
        assert!(claims(&directory).is_ok());
        for mode in [0o701, 0o710, 0o1777] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(claims(&directory).unwrap_err().reason, Reason::OneTimeUnavailable);
        }
    }

    #[test]
    fn an_entry_that_names_no_connection_refuses() {
        let directory = directory();
        let claims = claims(&directory).unwrap();
        symlink("/etc/passwd", directory.path().join(entry(60).to_string())).unwrap();
        fs::write(directory.path().join(entry(61).to_string()), "").unwrap();
        for expires in [60, 61] {
            assert_eq!(
                claims.owner(&entry(expires)).unwrap_err().reason,
                Reason::OneTimeUnavailable
            );
            assert_eq!(
                claims.claim(&entry(expires), HERE).unwrap_err().reason,
                Reason::OneTimeUnavailable
            );
        }
    }

    #[test]
    fn a_directory_that_was_removed_refuses() {
        let directory = directory();
        let claims = claims(&directory).unwrap();
        drop(directory);
        assert_eq!(
            claims.claim(&entry(60), HERE).unwrap_err().reason,
            Reason::OneTimeUnavailable
        );
    }
}
