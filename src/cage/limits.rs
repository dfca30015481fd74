//! Limits on what a process may use: what goes past them fails, or is ended by the kernel, and sshd discards what it
//! printed.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Nothing of a login is left in a core dump.
const CORE_BYTES: u64 = 0;

/// Nothing can be forked. Root's processes are not counted (setrlimit(2)); seccomp holds those.
const PROCESSES: u64 = 0;

/// The highest number of an open descriptor, plus one. We hold about ten; the rest is for links' pipes.
const DESCRIPTORS: u64 = 64;

/// What may be written into a regular file: all keys of the largest document, where somebody sent the output into
/// one, and far less for a used key.
const FILE_BYTES: u64 = 1024 * 1024;

/// Private memory. The largest evidence and the largest bundle of anchors make 20 MiB; the rest is a margin for a
/// libc that reserves more than it uses.
const DATA_BYTES: u64 = 256 * 1024 * 1024;

/// Seconds of CPU: a thousand records take a seventh of one.
const CPU_SECONDS: u64 = 10;

/// Lowers each limit; none that is lower already is raised.
pub(super) fn lower() -> super::Layer {
    let limits = [
        (Resource::RLIMIT_CORE, CORE_BYTES),
        (Resource::RLIMIT_NPROC, PROCESSES),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_FSIZE, FILE_BYTES),
        (Resource::RLIMIT_DATA, DATA_BYTES),
        (Resource::RLIMIT_CPU, CPU_SECONDS),
    ];
    let mut layer = Ok(());
    for (resource, limit) in limits {
        let lowered = getrlimit(resource)
            .and_then(|(soft, hard)| setrlimit(resource, soft.min(limit), hard.min(limit)));
        if let Err(error) = lowered {
            layer = Err(format!("{resource:?}: {}", io::Error::from(error)));
        }
    }
    layer
}
