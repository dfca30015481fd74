//! The decision: a snapshot of facts goes in, a plan or a refusal comes out.
//!
//! Nothing here touches the machine. What the plan rests on, [`super::system`] checks against the real sshd before a
//! step is taken, and again afterwards.
//!
//! ```text
//! Facts --survey--> Survey (the state, who is in force, what stands in the way) --plan--> Plan | Refusal
//! ```

pub mod adopt;
mod decide;
mod outcome;
mod survey;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use decide::plan;
pub use survey::{Survey, effective_arguments, survey};

use super::LIBEXEC;
use super::args::Arguments;
use super::call::{Options, Release};
use super::config::ConfigError;
use super::reason::{Notice, Refusal, Refused};
use super::tree::{Place, Snapshot, TreeError};
use super::unit::UnitFile;

/// Everything that the decision rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The configuration's files. `main` is what the daemon reads.
    pub snapshot: Snapshot,
    /// The main file behind its symlinks; `None` when there is no configuration at all.
    pub main: Option<MainFile>,
    /// The file at [`DROPIN`](crate::sshd::DROPIN).
    pub dropin: Option<DropInFile>,
    /// Whether [`DROPIN_DIR`](crate::sshd::DROPIN_DIR) exists.
    pub dropin_dir: bool,
    /// The two traditional paths, in the order of [`COMMANDS`](crate::sshd::COMMANDS).
    pub commands: [CommandState; 2],
    /// Whether the user [`RUN_AS`](crate::sshd::RUN_AS) exists.
    pub run_as: bool,
    /// sshd's unit: its fragment, then its drop-ins in systemd's order.
    pub unit: Vec<UnitFile>,
    /// The environment files that the unit names and that exist.
    pub environment: BTreeMap<PathBuf, Vec<u8>>,
    /// The daemon that is running.
    pub running: Option<Running>,
    /// The content of [`HOLD`](crate::sshd::HOLD), if it exists.
    pub hold: Option<Vec<u8>>,
    /// Whether the directory of [`HOLD`](crate::sshd::HOLD) exists.
    pub hold_dir: bool,
    /// The helper's configuration, where there is a file.
    pub config: Option<(MainFile, Vec<u8>)>,
    /// Each file of the snapshot behind its symlinks.
    pub files: BTreeMap<PathBuf, MainFile>,
    /// What the helper's configuration needs on the line; `None` when it can't be used.
    pub options: Option<Options>,
    /// Which sshd it is, where the line needs options and it says so.
    pub release: Option<Release>,
}

/// The main file, or another that may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainFile {
    /// Its real path, symlinks resolved.
    pub real: PathBuf,
    /// How many names it has.
    pub links: u64,
    /// Its permission bits.
    pub mode: u32,
}

/// The file at our drop-in's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropInFile {
    /// A symlink there is an administrator's (to /dev/null, to a managed place).
    pub symlink: bool,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// One of the two command paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CommandState {
    /// Nothing there.
    #[default]
    Absent,
    /// sshd would run it.
    Safe {
        /// Its real path.
        real: PathBuf,
    },
    /// sshd would not run it (misc.c, `safe_path`).
    Unsafe {
        /// Its real path, as far as it resolves.
        real: PathBuf,
        /// The file or directory that sshd objects to, and why.
        what: String,
    },
}

impl CommandState {
    /// Whether the path leads to this package's binary, or nowhere: then nobody else needs the lines that name it.
    fn is_ours_or_gone(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Safe { real } | Self::Unsafe { real, .. } => real.starts_with(LIBEXEC),
        }
    }
}

/// A running daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// What it was started with.
    pub arguments: Arguments,
    /// Whether systemd started it, so that the unit says what the next start will have.
    pub by_unit: bool,
}

/// What is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// sshd asks us.
    Apply,
    /// sshd no longer asks us.
    Remove,
}

/// By whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A person: overrides a hold, or sets one.
    Hand,
    /// A package's maintainer script: obeys a hold, and sets none.
    Package,
}

/// Where the two lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// [`DROPIN`](crate::sshd::DROPIN).
    DropIn,
    /// A marked block in the main file.
    Block,
    /// Amazon's two lines stay where they are.
    AsFound,
}

/// How the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No command is configured.
    Absent,
    /// Our drop-in or block is in force.
    Ours,
    /// One of Amazon's layouts is in force.
    Tradition,
    /// Somebody's own decision stands.
    Foreign,
    /// Something of ours has been edited.
    Damaged,
}

impl State {
    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Ours => "ours",
            Self::Tradition => "tradition",
            Self::Foreign => "foreign",
            Self::Damaged => "damaged",
        }
    }
}

/// One change to the machine, reversible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a directory, mode 0755.
    MakeDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Puts a file in place of the old one, or of nothing.
    Write {
        /// Its real path.
        path: PathBuf,
        /// What must be there now.
        before: Option<Vec<u8>>,
        /// What will be there.
        after: Vec<u8>,
        /// Permission bits of a new file; an old one keeps its own.
        mode: u32,
    },
    /// Takes a file away.
    Delete {
        /// Its real path.
        path: PathBuf,
        /// What must be there now.
        before: Vec<u8>,
    },
    /// Takes a directory away, if nothing else is in it.
    RemoveDirectory {
        /// Which.
        path: PathBuf,
    },
}

impl Step {
    /// What it touches.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::MakeDirectory { path }
            | Self::Write { path, .. }
            | Self::Delete { path, .. }
            | Self::RemoveDirectory { path } => path,
        }
    }

    /// The change as a unified diff; empty for directories.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = self.path().to_string_lossy();
        match self {
            Self::Write { before, after, .. } => super::diff::unified(&path, before.as_deref(), Some(after)),
            Self::Delete { before, .. } => super::diff::unified(&path, Some(before), None),
            Self::MakeDirectory { .. } | Self::RemoveDirectory { .. } => String::new(),
        }
    }
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In this order: what adds comes before what takes away, so that every prefix is a whole configuration.
    pub steps: Vec<Step>,
    /// The command that must be in force afterwards; `None` for a removal.
    pub wanted: Option<String>,
    /// Whether sshd reads anything that changes (the hold alone is none of its business).
    pub concerns_sshd: bool,
    /// Whether a unit changes, so that systemd has to read it again.
    pub unit_changes: bool,
    /// Remarks.
    pub notices: Vec<Notice>,
}

/// What a file that can't be read as sshd reads it is refused with.
fn tree_refusal(error: TreeError) -> Refusal {
    let unreadable = |message: &str, remedy: &str| Refusal::new(Refused::ConfigUnreadable, message, remedy);
    match error {
        TreeError::Missing(file) => unreadable(
            "a file that sshd reads could not be read",
            "look at the file; sshd would not start either",
        )
        .in_file(file),
        TreeError::Config(file, ConfigError::Nul { line }) => unreadable(
            "there is a NUL byte, which sshd reads as the end of the line's text",
            "delete the byte",
        )
        .at(&Place { file, line }),
        TreeError::Config(file, ConfigError::TooLarge) => unreadable(
            "the file is too large for a configuration",
            "look what the Include matches",
        )
        .in_file(file),
        TreeError::Depth(place) => unreadable(
            "files include one another more than 16 deep; sshd gives up there",
            "mend the Include",
        )
        .at(&place),
        TreeError::TooMany(place) => unreadable("too many files are included", "mend the Include").at(&place),
    }
}
