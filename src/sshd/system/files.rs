//! The steps of a plan, done and undone, each as one rename.
//!
//! A temporary file lies in the directory of the file it will become, starts with a dot and ends in `.new`: neither
//! sshd's `*.conf`, nor an Include of `*`, nor systemd reads it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use xattr::FileExt;

use super::journal::{Entry, Journal, digest, remove_if_exists, sync_dir};
use super::root::{Root, is_absent};
use crate::sshd::plan::Step;

/// Does one step. What it leaves when it fails half-way, [`undo`] takes back.
///
/// # Errors
/// As the system calls; `InvalidData` when the file is no longer what the plan was made from.
pub fn perform(root: &Root, step: &Step) -> io::Result<()> {
    match step {
        Step::MakeDirectory { path } => {
            let real = root.outside(&root.resolve_parent(path)?);
            fs::create_dir(&real)?;
            fs::set_permissions(&real, fs::Permissions::from_mode(0o755))?;
            sync_parent(&real)
        }
        Step::Write {
            path,
            before,
            after,
            mode,
        } => {
            let names = Names::of(root, path)?;
            names.expect(before.as_deref())?;
            write_fresh(&names, before.is_some(), after, *mode)?;
            if before.is_some() {
                remove_if_exists(&names.old)?;
                fs::hard_link(&names.real, &names.old)?;
            }
            fs::rename(&names.fresh, &names.real)?;
            sync_parent(&names.real)
        }
        Step::Delete { path, before } => {
            let names = Names::of(root, path)?;
            names.expect(Some(before))?;
            fs::rename(&names.real, &names.old)?;
            sync_parent(&names.real)
        }
        // Only when everything is settled: until then the directory holds the old file's second name.
        Step::RemoveDirectory { .. } => Ok(()),
    }
}

/// Puts back what a transaction has changed, the last step first, however far it got. Returns the files that somebody
/// else has changed since, which are left alone.
///
/// # Errors
/// As the system calls. Calling it again is safe.
pub fn undo(root: &Root, journal: &Journal) -> io::Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for entry in journal.steps.iter().rev() {
        match entry {
            Entry::MakeDirectory { path } => remove_empty(root, path)?,
            Entry::RemoveDirectory { .. } => {}
            Entry::File { path, before, after } => {
                // Where the directory is missing there was nothing to do yet.
                let names = match Names::of(root, path) {
                    Ok(names) => names,
                    Err(error) if is_absent(&error) => continue,
                    Err(error) => return Err(error),
                };
                if !undo_file(&names, before.as_deref(), after.as_deref())? {
                    left.push(path.clone());
                }
            }
        }
    }
    Ok(left)
}

/// `false` when somebody else has been there.
fn undo_file(names: &Names, before: Option<&str>, after: Option<&str>) -> io::Result<bool> {
    remove_if_exists(&names.fresh)?;
    let now = names.digest()?;
    let as_we_left_it = now.as_deref() == after || now.as_deref() == before;
    let has_old = fs::symlink_metadata(&names.old).is_ok();
    match (before.is_some(), has_old, as_we_left_it) {
        (true, true, true) => {
            fs::rename(&names.old, &names.real)?;
            // Between link and rename both names are one file, and then rename(2) does nothing at all.
            remove_if_exists(&names.old)?;
        }
        (false, _, true) if now.is_some() => remove_if_exists(&names.real)?,
        (_, _, true) => {}
        (_, _, false) => remove_if_exists(&names.old)?,
    }
    sync_parent(&names.real)?;
    Ok(as_we_left_it)
}

/// Takes away what a committed transaction has kept for its undoing, and directories that are empty now.
///
/// # Errors
/// As unlink(2). Calling it again is safe.
pub fn sweep(root: &Root, journal: &Journal) -> io::Result<()> {
    for entry in &journal.steps {
        if let Entry::File { path, .. } = entry {
            match Names::of(root, path) {
                Ok(names) => {
                    remove_if_exists(&names.fresh)?;
                    remove_if_exists(&names.old)?;
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    for entry in &journal.steps {
        if let Entry::RemoveDirectory { path } = entry {
            remove_empty(root, path)?;
        }
    }
    Ok(())
}

/// The names that one file goes by during a transaction, as the kernel is to be given them.
struct Names {
    real: PathBuf,
    fresh: PathBuf,
    old: PathBuf,
}

impl Names {
    fn of(root: &Root, path: &Path) -> io::Result<Self> {
        let real = root.outside(&root.resolve_parent(path)?);
        let name = real
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let sibling = |end: &str| real.with_file_name(format!(".{name}.ec2-instance-connect.{end}"));
        Ok(Self {
            fresh: sibling("new"),
            old: sibling("old"),
            real,
        })
    }

    fn content(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.real) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn digest(&self) -> io::Result<Option<String>> {
        Ok(self.content()?.as_deref().map(digest))
    }

    fn expect(&self, before: Option<&[u8]>) -> io::Result<()> {
        if self.content()?.as_deref() == before {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "somebody changed the file meanwhile",
        ))
    }
}

/// Writes and syncs the temporary file, with the old file's owner, mode and extended attributes (ACLs, labels).
fn write_fresh(names: &Names, replaces: bool, text: &[u8], mode: u32) -> io::Result<()> {
    remove_if_exists(&names.fresh)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&names.fresh)?;
    file.write_all(text)?;
    if replaces {
        let old = File::open(&names.real)?;
        let meta = old.metadata()?;
        fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        match old.list_xattr() {
            Ok(list) => {
                for name in list {
                    if let Some(value) = old.get_xattr(&name)? {
                        file.set_xattr(&name, &value)?;
                    }
                }
            }
            // A file system without extended attributes has none to keep.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
    } else {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    file.sync_all()
}

fn remove_empty(root: &Root, path: &Path) -> io::Result<()> {
    let Ok(real) = root.resolve(path) else {
        return Ok(());
    };
    let real = root.outside(&real);
    match fs::remove_dir(&real) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty || is_absent(&error) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(&real),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str, before: Option<&[u8]>, after: &[u8]) -> Step {
        let before = before.map(<[u8]>::to_vec);
        Step::Write {
            path: path.into(),
            before,
            after: after.to_vec(),
            mode: 0o640,
        }
    }

    #[test]
    fn undoing_restores_the_very_file_from_every_prefix() {
        let steps = [
            Step::MakeDirectory { path: "/d".into() },
            write("/d/new", None, b"1"),
            write("/kept", Some(b"old"), b"new"),
            Step::Delete {
                path: "/gone".into(),
                before: b"x".to_vec(),
            },
        ];
        for done in 0..=steps.len() {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path()).unwrap();
            fs::write(dir.path().join("kept"), "old").unwrap();
            fs::write(dir.path().join("gone"), "x").unwrap();
            let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
            let before = (inode("kept"), inode("gone"));
            for step in &steps[..done] {
                perform(&root, step).unwrap();
            }
            let journal = Journal::of(&steps, false);
            assert_eq!(undo(&root, &journal).unwrap(), Vec::<PathBuf>::new());
            assert_eq!(undo(&root, &journal).unwrap(), Vec::<PathBuf>::new());
            assert_eq!((inode("kept"), inode("gone")), before);
            assert_eq!(root.list(Path::new("/")), ["gone", "kept"], "after {done} steps");
        }
    }

    #[test]
    fn sweeping_leaves_the_new_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path()).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/gone"), "x").unwrap();
        fs::write(dir.path().join("kept"), "old").unwrap();
        let steps = [
            write("/kept", Some(b"old"), b"new"),
            Step::Delete {
                path: "/d/gone".into(),
                before: b"x".to_vec(),
            },
            Step::RemoveDirectory { path: "/d".into() },
        ];
        for step in &steps {
            perform(&root, step).unwrap();
        }
        sweep(&root, &Journal::of(&steps, false)).unwrap();
        assert_eq!(root.list(Path::new("/")), ["kept"]);
        assert_eq!(fs::read(dir.path().join("kept")).unwrap(), b"new");
    }

    #[test]
    fn file_that_somebody_changed_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path()).unwrap();
        fs::write(dir.path().join("kept"), "edited").unwrap();
        let step = write("/kept", Some(b"old"), b"new");
        assert_eq!(
            perform(&root, &step).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );

        fs::write(dir.path().join("kept"), "old").unwrap();
        perform(&root, &step).unwrap();
        fs::write(dir.path().join("kept"), "edited later").unwrap();
        let left = undo(&root, &Journal::of(&[step], false)).unwrap();
        assert_eq!(left, [PathBuf::from("/kept")]);
        assert_eq!(root.list(Path::new("/")), ["kept"]);
    }
}
