//! The cage that the helper locks itself into before it looks at what the metadata said.
//!
//! ```text
//! config, host, network, NSS, logger's socket ─▶ cage ─▶ parse, prove, one write
//! ```
//!
//! Four layers, each for itself, so that the lack of one takes nothing from the others: no new privileges, limits,
//! Landlock for files and sockets, seccomp for system calls. A login is never refused because a kernel, a container
//! or a system call filter around us lacks one: what is in force is in the log at level `debug`, and `doctor` says it.
//! It is entered only where there is a key document to prove, and holds for the rest of the process. Threads and
//! children that exist already are outside; there are no threads, and links are meant to be. See `docs/CAGE.md`.

mod calls;
mod files;
mod limits;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::prctl;
use serde::{Deserialize, Serialize};

/// What the rest of a login still needs of the system, beyond memory, the clock, open descriptors and one write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// Files that the proof may read.
    pub read: &'a [&'a Path],
    /// The opened directory in which one-time keys are claimed.
    pub claims: Option<BorrowedFd<'a>>,
    /// Whether children were started that must be waited for, or ended.
    pub children: bool,
}

/// A layer: in force, or why not.
pub type Layer = Result<(), String>;

/// Which layers are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct InForce {
    /// No program that is run can gain privileges (prctl(2), `PR_SET_NO_NEW_PRIVS`): what the next two ask for.
    pub no_new_privs: Layer,
    /// Memory, time, files and processes (setrlimit(2)).
    pub limits: Layer,
    /// Files and sockets (landlock(7)).
    pub landlock: Layer,
    /// System calls (seccomp(2)).
    pub seccomp: Layer,
}

impl InForce {
    /// The layers with their names, from the outermost.
    pub fn layers(&self) -> [(&'static str, &Layer); 4] {
        [
            ("no-new-privs", &self.no_new_privs),
            ("limits", &self.limits),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
        ]
    }
}

/// The names of what is in force, with commas; `none` where nothing is.
impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = self.layers();
        let mut names = layers
            .iter()
            .filter(|(_, layer)| layer.is_ok())
            .map(|(name, _)| *name);
        f.write_str(names.next().unwrap_or("none"))?;
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}

/// Locks the calling thread in, as far as the kernel can. There is no way back.
pub fn enter(needs: &Needs<'_>) -> InForce {
    InForce {
        no_new_privs: prctl::set_no_new_privs().map_err(|error| io::Error::from(error).to_string()),
        limits: limits::lower(),
        landlock: files::restrict(needs),
        // Last, since it takes away the calls that the others are made with.
        seccomp: calls::filter(needs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_is_named_and_nothing_else() {
        let all = InForce {
            no_new_privs: Ok(()),
            limits: Ok(()),
            landlock: Ok(()),
            seccomp: Ok(()),
        };
        assert_eq!(all.to_string(), "no-new-privs,limits,landlock,seccomp");
        let lack = || Err("Function not implemented".to_owned());
        let some = InForce {
            landlock: lack(),
            ..all
        };
        assert_eq!(some.to_string(), "no-new-privs,limits,seccomp");
        let none = InForce {
            no_new_privs: lack(),
            limits: lack(),
            landlock: lack(),
            seccomp: lack(),
        };
        assert_eq!(none.to_string(), "none");
    }
}
