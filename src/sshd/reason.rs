//! Every reason for which setup refuses, fails or speaks up, with a code that scripts may rely on.

use std::fmt;
use std::path::PathBuf;

use super::tree::Place;

/// Declares an enum whose variants have a stable code, and the list of all of them.
macro_rules! codes {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$inner])* $variant,)* }

        impl $name {
            /// All of them, for the documentation's check.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

codes! {
    /// Why setup refused or failed. Nothing has changed when one of these is returned.
    Refused {
        /// Somebody's own `AuthorizedKeysCommand` is in force.
        ForeignCommand = "foreign-command",
        /// An explicit `AuthorizedKeysCommand none`.
        ForeignNone = "foreign-none",
        /// An `AuthorizedKeysCommandUser` (or the old RunAs) that is not ours, with or without a command.
        ForeignUser = "foreign-user",
        /// A `-o` on the daemon's command line, in its unit or its environment file.
        ForeignArgument = "foreign-argument",
        /// A Match block with one half of a pair, which our other half would complete.
        MatchHalfPair = "match-half-pair",
        /// A file of somebody else's has our drop-in's name.
        DropInNotOurs = "dropin-not-ours",
        /// Our drop-in has been edited.
        DropInModified = "dropin-modified",
        /// Our block's markers in the main file are not a pair, or something else stands between them.
        BlockDamaged = "block-damaged",
        /// The reference's unit override has been edited.
        OverrideModified = "override-modified",
        /// A line of Amazon's form that setup does not take away comes before ours, and is not what is needed.
        TraditionAhead = "tradition-ahead",
        /// A file that we can't read as sshd does.
        ConfigUnreadable = "config-unreadable",
        /// No `sshd_config` anywhere.
        ConfigMissing = "config-missing",
        /// The only configuration is the vendor's below /usr, and it reads no drop-ins.
        VendorConfig = "vendor-config",
        /// The main file has several names; replacing one of them would part them.
        HardLinked = "hard-linked",
        /// No sshd program.
        SshdMissing = "sshd-missing",
        /// The command to be adopted runs as root or becomes another user; a link runs as ours.
        AdoptRoot = "adopt-root",
        /// The command to be adopted gives something else as our user.
        AdoptDiffers = "adopt-differs",
        /// The command can't be adopted: its words, its place, or what it gave.
        AdoptUnfit = "adopt-unfit",
        /// Neither traditional command path exists.
        CommandMissing = "command-missing",
        /// Both traditional command paths exist.
        CommandAmbiguous = "command-ambiguous",
        /// sshd would not run the command: owner or mode of it or of a directory above.
        CommandUnsafe = "command-unsafe",
        /// The run-as user does not exist.
        UserMissing = "user-missing",
        /// Not root.
        NotRoot = "not-root",
        /// Another setup is at work.
        Locked = "locked",
        /// The real sshd does not take the candidate.
        CandidateRejected = "candidate-rejected",
        /// With the candidate another command would be in force.
        CandidateNotEffective = "candidate-not-effective",
        /// The candidate would change another setting.
        CandidateSideEffect = "candidate-side-effect",
        /// A file could not be read or written: no space, read-only, no right.
        Io = "io",
        /// sshd did not take the new configuration while running; everything is back.
        ReloadFailed = "reload-failed",
        /// After the reload sshd did not answer, or not with our value; everything is back.
        ProofFailed = "proof-failed",
        /// Putting everything back did not work entirely: the journal stays for the next call.
        RollbackFailed = "rollback-failed",
    }
}

codes! {
    /// What an administrator should know although it stopped nothing.
    Noted {
        /// `setup.off` exists: a package applies nothing.
        Held = "held",
        /// `setup.off` was taken away by an apply by hand.
        HoldLifted = "hold-lifted",
        /// `setup.off` was written by a remove by hand.
        HoldSet = "hold-set",
        /// An earlier call was cut off; its leftovers were put back.
        Repaired = "repaired",
        /// An earlier call was cut off; the next apply or remove will put its leftovers back.
        Interrupted = "interrupted",
        /// A file changed by somebody after the cut-off call was left as it is.
        RepairSkipped = "repair-skipped",
        /// sshd's configuration had been broken before, in the same way.
        AlreadyBroken = "already-broken",
        /// No private mount namespace: the candidate was judged after it was in place, before any reload.
        JudgedInPlace = "judged-in-place",
        /// The image's sshd can't be run here: nobody judged the candidate.
        NotJudged = "not-judged",
        /// sshd was not reloaded, and why.
        NotReloaded = "not-reloaded",
        /// The running daemon carries an old `-o` until it is restarted.
        RestartNeeded = "restart-needed",
        /// One of Amazon's layouts was taken over.
        TraditionTaken = "tradition-taken",
        /// One of Amazon's layouts was left, because its owner is still there.
        TraditionLeft = "tradition-left",
        /// A Match block names a command of its own: those users don't get ours.
        MatchOverrides = "match-overrides",
        /// A command of somebody's own has no effect because ours comes first.
        ForeignShadowed = "foreign-shadowed",
        /// The block went into the main file, and why not a drop-in.
        BlockChosen = "block-chosen",
        /// Another setting's effective value changed with the removal.
        SideEffect = "side-effect",
        /// Somebody's command became a link.
        Adopted = "adopted",
        /// An adopted command is sshd's again.
        GivenBack = "given-back",
        /// The adopted link was edited, and stays.
        AdoptedEdited = "adopted-edited",
        /// Lines of an adopted command are comments, and its link is not in the configuration.
        AdoptedLost = "adopted-link-missing",
        /// A token that the configuration needs and this sshd does not know was left out.
        TokenUnknown = "token-unknown",
        /// The helper's configuration can't be used, so nobody knows what it needs.
        ConfigUnusable = "config-unusable",
        /// SELinux enforces and our module is not loaded.
        SelinuxModule = "selinux-module-missing",
    }
}

/// A refusal: what, where, whose, and what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Refused,
    /// One sentence.
    pub message: String,
    /// The file it is about.
    pub file: Option<PathBuf>,
    /// The line in it.
    pub line: Option<usize>,
    /// The package that owns the file; filled in by the shell.
    pub owner: Option<String>,
    /// What can be done.
    pub remedy: String,
}

impl Refusal {
    /// A refusal that is about no file.
    #[must_use]
    pub fn new(code: Refused, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            file: None,
            line: None,
            owner: None,
            remedy: remedy.into(),
        }
    }

    /// The same, about a file.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// The same, about a line.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.file = Some(place.file.clone());
        self.line = Some(place.line);
        self
    }

    /// A file that could not be read or written.
    #[must_use]
    pub fn io(what: &str, file: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::StorageFull => "free some space and run the command again",
            std::io::ErrorKind::ReadOnlyFilesystem => {
                "remount the file system read-write, or patch the image instead"
            }
            std::io::ErrorKind::PermissionDenied => {
                "look for an immutable attribute (lsattr) or a security policy"
            }
            _ => "remove the cause and run the command again",
        };
        Self::new(Refused::Io, format!("{what}: {error}"), remedy).in_file(file)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code.code(), self.message)
    }
}

impl std::error::Error for Refusal {}

/// A remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The stable code.
    pub code: Noted,
    /// One sentence.
    pub message: String,
    /// The place it is about.
    pub place: Option<Place>,
}

impl Notice {
    /// A remark about no place.
    #[must_use]
    pub fn new(code: Noted, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: None,
        }
    }

    /// The same, about a place.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }
}
