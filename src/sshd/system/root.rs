//! A machine's file tree: `/`, or an image mounted somewhere. Symlinks inside an image are followed inside it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::file;
use crate::sshd::glob;

/// Symlinks followed for one path: the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A file tree. Paths given to it, and got from it, are absolute and as seen inside.
#[derive(Debug, Clone)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// The tree below `dir`, which must exist.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = fs::canonicalize(dir)?;
        if !dir.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { dir })
    }

    /// Whether this is the machine itself.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// The directory it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path inside as the kernel here would have to be given it. Symlinks on the way are not looked at: use it on
    /// what [`Self::resolve`] or [`Self::resolve_parent`] has returned.
    #[must_use]
    pub fn outside(&self, inside: &Path) -> PathBuf {
        self.dir.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// realpath(3), inside the tree.
    ///
    /// # Errors
    /// When a part of the path is missing, or symlinks go in a circle.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut todo: Vec<PathBuf> = components(path);
        let mut done = PathBuf::from("/");
        let mut links = 0_usize;
        while let Some(part) = todo.pop() {
            if part == Path::new("..") {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let meta = fs::symlink_metadata(self.outside(&next))?;
            if !meta.file_type().is_symlink() {
                done = next;
                continue;
            }
            links = links.saturating_add(1);
            if links > MAX_LINKS {
                return Err(io::Error::other("too many levels of symbolic links"));
            }
            let target = fs::read_link(self.outside(&next))?;
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(components(&target));
        }
        Ok(done)
    }

    /// The path with its directory resolved and its own name kept, whether or not it exists.
    ///
    /// # Errors
    /// When the directory is missing.
    pub fn resolve_parent(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = self.resolve(path.parent().unwrap_or(Path::new("/")))?;
        Ok(path.file_name().map_or(parent.clone(), |name| parent.join(name)))
    }

    /// A file's content.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(self.outside(&self.resolve(path)?))
    }

    /// A file's content, or `None` when there is no such file.
    ///
    /// # Errors
    /// As read(2), but for a missing file.
    pub fn read_if_exists(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something is there, symlinks followed.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.resolve(path).is_ok()
    }

    /// What is there, symlinks not followed; `None` when nothing.
    #[must_use]
    pub fn lstat(&self, path: &Path) -> Option<fs::Metadata> {
        fs::symlink_metadata(self.outside(&self.resolve_parent(path).ok()?)).ok()
    }

    /// What is there, symlinks followed.
    ///
    /// # Errors
    /// As stat(2).
    pub fn stat(&self, path: &Path) -> io::Result<fs::Metadata> {
        fs::symlink_metadata(self.outside(&self.resolve(path)?))
    }

    /// Names in a directory, sorted by their bytes; none when it is missing.
    #[must_use]
    pub fn list(&self, dir: &Path) -> Vec<String> {
        let Ok(entries) = self
            .resolve(dir)
            .and_then(|real| fs::read_dir(self.outside(&real)))
        else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// glob(3) inside the tree: what an absolute pattern finds, in the order of the C locale (sshd sets no other).
    #[must_use]
    pub fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        if !pattern.starts_with('/') {
            return Vec::new();
        }
        let mut found = vec![PathBuf::from("/")];
        for component in pattern.split('/').filter(|part| !part.is_empty()) {
            let step = |dir: &PathBuf| -> Vec<PathBuf> {
                if glob::is_wild(component) {
                    let names = self.list(dir).into_iter();
                    names
                        .filter(|name| glob::name_matches(component, name))
                        .map(|name| dir.join(name))
                        .collect()
                } else {
                    let path = dir.join(component.replace('\\', ""));
                    if self.lstat(&path).is_some() {
                        vec![path]
                    } else {
                        Vec::new()
                    }
                }
            };
            found = found.iter().flat_map(step).collect();
        }
        found.sort();
        found
    }

    /// Why sshd would not run the program behind this path, if so: [`file::unsafe_part`].
    ///
    /// # Errors
    /// The real path as far as it resolves, and what is wrong.
    pub fn safe_program(&self, path: &Path) -> Result<PathBuf, (PathBuf, String)> {
        let real = self
            .resolve(path)
            .map_err(|error| (path.to_path_buf(), format!("{}: {error}", path.display())))?;
        let look = |at: &Path| fs::symlink_metadata(self.outside(at));
        let objection = file::unsafe_part(&real, look);
        // The image's own top directory belongs to whoever unpacked it.
        match objection.filter(|(at, _)| *at != Path::new("/") || self.is_live()) {
            None => Ok(real),
            Some((at, what)) => {
                let what = format!("{} {what}", at.display());
                Err((real, what))
            }
        }
    }
}

/// A path's parts, last first, without `/` and `.`.
fn components(path: &Path) -> Vec<PathBuf> {
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut parts: Vec<PathBuf> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}

/// Whether an error means that there is nothing.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn symlinks_stay_inside_an_image() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/ssh")).unwrap();
        fs::create_dir_all(dir.path().join("srv")).unwrap();
        fs::write(dir.path().join("srv/conf"), "x").unwrap();
        symlink("/srv/conf", dir.path().join("etc/ssh/sshd_config")).unwrap();
        symlink("../../../../../srv", dir.path().join("etc/up")).unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let root = Root::new(dir.path()).unwrap();
        assert_eq!(
            root.resolve(Path::new("/etc/ssh/sshd_config")).unwrap(),
            Path::new("/srv/conf")
        );
        assert_eq!(
            root.resolve(Path::new("/etc/up/conf")).unwrap(),
            Path::new("/srv/conf")
        );
        assert_eq!(root.read(Path::new("/etc/ssh/sshd_config")).unwrap(), b"x");
        assert!(root.resolve(Path::new("/a")).is_err());
        assert_eq!(root.read_if_exists(Path::new("/etc/ssh/none")).unwrap(), None);
    }

    #[test]
    fn glob_finds_sorted_names_and_no_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", ".c.conf", "d.conf.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let root = Root::new(dir.path()).unwrap();
        assert_eq!(root.glob("/*.conf"), [PathBuf::from("/a.conf"), "/b.conf".into()]);
        assert_eq!(root.glob("/a.conf"), [PathBuf::from("/a.conf")]);
        assert!(root.glob("/none/*").is_empty());
        assert!(root.glob("~/x").is_empty());
    }
}
