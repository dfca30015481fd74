//! Reading the few files that decide about trust.
//!
//! Who owns the file is asked of the opened descriptor, so nothing can be swapped between question and answer.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Whose files are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Root's alone.
    Root,
    /// Root's, or those of the user this process runs as: where that user chose the file.
    RootOrSelf,
}

/// Why a file was not read.
#[derive(Debug)]
pub enum FileError {
    /// There is none.
    NotFound,
    /// It cannot be opened or read.
    Io(io::Error),
    /// It is a directory, a device, a socket.
    NotRegular,
    /// It belongs to a user whose word does not count here.
    Owner(u32),
    /// Its group or everybody may write it.
    Writable(u32),
    /// It is larger than it may be.
    TooLarge(u64),
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such file"),
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::NotRegular => f.write_str("is not a regular file"),
            Self::Owner(uid) => write!(f, "is owned by uid {uid}, not by root"),
            Self::Writable(mode) => write!(f, "may be written by others than its owner (mode {mode:04o})"),
            Self::TooLarge(limit) => write!(f, "is larger than {limit} bytes"),
        }
    }
}

/// The bits that let others than the owner write (stat(2)): group and world.
const FOREIGN_WRITE: u32 = 0o022;

/// Reads `path`, a regular file of `owner` that nobody else may write, of at most `limit` bytes.
///
/// # Errors
/// The first thing wrong with it. [`FileError::NotFound`] is ENOENT and nothing else.
pub fn read_trusted(path: &Path, owner: Owner, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(FileError::Io)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular);
    }
    let believed = match owner {
        Owner::Root => metadata.uid() == 0,
        Owner::RootOrSelf => metadata.uid() == 0 || metadata.uid() == geteuid().as_raw(),
    };
    if !believed {
        return Err(FileError::Owner(metadata.uid()));
    }
    if metadata.mode() & FOREIGN_WRITE != 0 {
        return Err(FileError::Writable(metadata.mode() & 0o7777));
    }
    read_bounded(file, limit)
}

/// The file behind `path`, if sshd would run it as a command of its own.
///
/// # Errors
/// What sshd would object to, for people.
pub fn safe_program(path: &Path) -> Result<PathBuf, String> {
    let real = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    match unsafe_part(&real, Path::symlink_metadata) {
        None => Ok(real),
        Some((at, what)) => Err(format!("{} {what}", at.display())),
    }
}

/// Which part of a path without symlinks keeps sshd from running the program there, and why: the file and each directory
/// above it must be root's, and writable by root alone (misc.c, `safe_path`).
///
/// Stricter than Debian's patch in one point: what a group may write is never safe, whoever is in the group.
pub fn unsafe_part(
    real: &Path,
    look: impl Fn(&Path) -> io::Result<Metadata>,
) -> Option<(&Path, &'static str)> {
    let wrong = |at: &Path, depth: usize| {
        let Ok(meta) = look(at) else {
            return Some("can't be looked at");
        };
        match depth {
            0 if !meta.is_file() => Some("is not a regular file"),
            0 if meta.mode() & 0o111 == 0 => Some("is not executable"),
            _ if meta.uid() != 0 => Some("does not belong to root"),
            _ if meta.mode() & FOREIGN_WRITE != 0 => Some("is writable by its group or by everyone"),
            _ => None,
        }
    };
    let mut parts = real.ancestors().enumerate();
    parts.find_map(|(depth, at)| Some((at, wrong(at, depth)?)))
}

/// Reads `path`, whatever it is and whoever owns it, up to `limit` bytes: for the kernel's files.
///
/// # Errors
/// See [`FileError`].
pub fn read_kernel(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_bounded(open(path)?, limit)
}

fn open(path: &Path) -> Result<File, FileError> {
    // O_NONBLOCK: a FIFO put in a file's place must not hold up a login.
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                FileError::NotFound
            } else {
                FileError::Io(error)
            }
        })
}

fn read_bounded(file: File, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    let read = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(FileError::Io)?;
    if u64::try_from(read).is_ok_and(|read| read <= limit) {
        Ok(content)
    } else {
        Err(FileError::TooLarge(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"content").unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn our_own_file_is_read() {
        assert_eq!(
            read_trusted(file(0o600).path(), Owner::RootOrSelf, 7).unwrap(),
            b"content"
        );
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        for mode in [0o620, 0o602, 0o666] {
            let error = read_trusted(file(mode).path(), Owner::RootOrSelf, 100).unwrap_err();
            assert!(
                matches!(error, FileError::Writable(seen) if seen == mode),
                "{error}"
            );
        }
    }

    #[test]
    fn one_byte_over_the_limit_is_too_large() {
        assert!(matches!(
            read_trusted(file(0o600).path(), Owner::RootOrSelf, 6),
            Err(FileError::TooLarge(6))
        ));
    }

    #[test]
    fn a_directory_and_an_absent_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            read_trusted(dir.path(), Owner::RootOrSelf, 6),
            Err(FileError::NotRegular)
        ));
        assert!(matches!(
            read_trusted(&dir.path().join("x"), Owner::Root, 6),
            Err(FileError::NotFound)
        ));
    }

    #[test]
    fn a_fifo_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(
            read_trusted(&path, Owner::RootOrSelf, 6),
            Err(FileError::NotRegular)
        ));
    }

    #[test]
    fn only_a_program_that_root_alone_can_change_is_safe() {
        assert!(safe_program(Path::new("/bin/sh")).is_ok_and(|real| real.is_absolute()));
        let script = file(0o755);
        // Everybody may write to the directory of temporary files.
        assert!(safe_program(script.path()).is_err());
        assert!(
            safe_program(Path::new("/etc/passwd"))
                .unwrap_err()
                .contains("executable")
        );
        assert!(
            safe_program(Path::new("/usr/bin"))
                .unwrap_err()
                .contains("regular")
        );
        assert!(safe_program(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_strangers_file_is_refused() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: a_strangers_file_is_refused needs root to give a file away");
            return;
        }
        let file = file(0o600);
        nix::unistd::chown(file.path(), Some(nix::unistd::Uid::from_raw(12345)), None).unwrap();
        assert!(matches!(
            read_trusted(file.path(), Owner::RootOrSelf, 100),
            Err(FileError::Owner(12345))
        ));
    }
}
